"""Benchmarks: `./run bench NAME`. One module and one entry each.

Contract: measure(quick) -> (rows, ratios) as DESIGN's format has them; a row: case, name, version, median,
minimum, unit; a ratio: case, over, value (the peer's median over ours, larger is better for us), target.
"""

from __future__ import annotations

import json
from typing import Any

from runs.folders import shown
from training.config import PROJECT, UserError
from training.shelf import open_entry

BENCHMARKS = {"compose": "runs.benchmarks.compose:measure"}


def run_benchmark(name: str, quick: bool) -> None:
    """Run it, print its table, write runs/results/bench/NAME.json (NAME-quick.json for a quick one)."""
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    measure = open_entry(BENCHMARKS, name, "benchmark")

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
    folder = PROJECT / "runs" / "results" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'-quick' if quick else ''}.json"
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    print(f"written to {shown(path)}")


def table(rows: list[dict[str, Any]], ratios: list[dict[str, Any]]) -> str:
    """Rows and ratios for a terminal."""
    lines = [f"{'case':<22} {'name':<28} {'version':<9} {'median':>9} {'minimum':>9}"]
    for row in rows:
        if row["median"] is None:
            figures = f"{'not installed':>19}"
        else:
            figures = f"{row['median']:>9.3f} {row['minimum']:>9.3f} {row['unit']}"
        lines.append(f"{row['case']:<22} {row['name']:<28} {row['version'] or '':<9} {figures}")
    lines += ["", f"{'case':<22} {'peer over ours':<28} {'ratio':>7} {'target':>7}"]
    for ratio in ratios:
        target = "" if ratio["target"] is None else f"{ratio['target']:.2f}"
        lines.append(f"{ratio['case']:<22} {ratio['over']:<28} {ratio['value']:>7.2f} {target:>7}")
    return "\n".join(lines)
