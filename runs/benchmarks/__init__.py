"""Benchmarks: `./run bench NAME`. One module and one entry each.

Contract: measure(quick) -> (rows, ratios) as DESIGN's format has them; a row: case, name, version, median,
minimum, unit, and None for both figures where the package is not installed; a ratio: case, over, value (the
peer's median over ours, or the allowed over the measured: larger is better for us), target or None.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from evo.errors import UserError
from runs.folders import shown
from training.places import PROJECT
from training.registry import load_entry

BENCHMARKS = {
    "compose": "runs.benchmarks.compose_speed:measure",
    "overhead": "runs.benchmarks.overhead:measure",
    "speed": "runs.benchmarks.speed:measure",
    "operators": "runs.benchmarks.operators:measure",
    "search": "runs.benchmarks.search_quality:measure",
    "scaling": "runs.benchmarks.search_cost:measure",
    "rescore": "runs.benchmarks.rescore:measure",
    "estimates": "runs.benchmarks.estimated_search:measure",
    "scores": "runs.benchmarks.scores:measure",
    "analysis": "runs.benchmarks.analysis:measure",
}
ALL_THREADS = (
    "compose",
    "overhead",
    "speed",
    "search",
    "rescore",
    "scores",
)  # its time is the model's; the others run on one thread
DECIMALS = {"forwards": 0, "MiB": 1, "%": 2, "slope": 2}  # of figures in tables; 3 elsewhere


def run_benchmark(name: str, quick: bool) -> None:
    """Run it, print its table, write runs/results/bench/NAME.json (NAME-quick.json for a quick one)."""
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if name not in ALL_THREADS:  # before numpy and torch are imported: they read it once
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ[f"{library}_NUM_THREADS"] = "1"
    measure = load_entry(BENCHMARKS, name, "benchmark")

    import torch  # 5 s

    from training.checkpoint import write_atomically
    from training.run_log import environment, now

    rows, ratios = measure(quick)
    command = f"./run bench {name}" + (" --quick" if quick else "")
    result = {
        "schema": 1,
        "command": command,
        "date": now(),
        "environment": environment(torch.device("cpu"), command),
        "rows": rows,
        "ratios": ratios,
    }
    print(table(rows, ratios))
    path = result_path(name, quick, "json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    print(f"written to {shown(path)}")


def result_path(name: str, quick: bool, suffix: str) -> Path:
    """runs/results/bench/NAME.SUFFIX; a quick run's file has a name of its own."""
    return PROJECT / "runs" / "results" / "bench" / f"{name}{'-quick' if quick else ''}.{suffix}"


def row(case: str, name: str, values: Sequence[float] | None, unit: str, package: str | None = None) -> dict[str, Any]:
    """A row of the table. values: of all rounds or seeds, None where the package is not installed."""
    return {
        "case": case,
        "name": name,
        "version": package and package_version(package),
        "median": None if values is None else median(values),
        "minimum": None if values is None else min(values),
        "unit": unit,
    }


def package_version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(rows: list[dict[str, Any]], ratios: list[dict[str, Any]]) -> str:
    """Rows and ratios for a terminal."""
    cases = max(len(line["case"]) for line in (*rows, *ratios, {"case": " " * 22}))
    names = max(len(line.get("name") or line["over"]) for line in (*rows, *ratios, {"name": " " * 28}))
    lines = [f"{'case':<{cases}} {'name':<{names}} {'version':<9} {'median':>11} {'minimum':>11}"]
    for line in rows:
        if line["median"] is None:
            figures = f"{'not installed':>23}"
        else:
            decimals = DECIMALS.get(line["unit"], 3)
            figures = f"{line['median']:>11,.{decimals}f} {line['minimum']:>11,.{decimals}f} {line['unit']}"
        lines.append(f"{line['case']:<{cases}} {line['name']:<{names}} {line['version'] or '':<9} {figures}")
    if ratios:
        lines += ["", f"{'case':<{cases}} {'peer over ours':<{names}} {'ratio':>9} {'target':>9}"]
    for ratio in ratios:
        verdict = ""
        if ratio["target"] is not None:
            verdict = f"{ratio['target']:>9.2f} {'met' if ratio['value'] >= ratio['target'] else 'missed'}"
        lines.append(f"{ratio['case']:<{cases}} {ratio['over']:<{names}} {ratio['value']:>9.2f} {verdict}".rstrip())
    return "\n".join(lines)
