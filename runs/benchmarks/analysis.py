"""`./run bench analysis`: how long it takes to look at a large run, and in how much memory.

The run is made up: 200 epochs, 2,000 generations of 500 searches, ten of them kept whole with 512 images of 32 px, and
10,000 patterns. Commands are timed as a person meets them, from a fresh interpreter to the written file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.log_lines import read_lines
from evo.bank import PatternBank
from evo.bank_files import save_bank
from evo.operators import MASK_SAMPLERS
from evo.search import Elites
from runs.benchmarks import row
from runs.benchmarks.made_up import make_run
from training.mixes.evolved import SearchRecord
from training.places import PROJECT
from training.run_log import RunLog

BATCH = 512
GRID = 4
GENERATIONS = 4
LINES = 50_000
TARGETS = {"report": 10.0, "curves": 4.0, "lines": 0.5}  # seconds
REPORT_MIB = 500
# Runs a command, then writes its process's own peak in KiB: ru_maxrss would include that of the process before exec.
TOLD = """
import re, sys
from pathlib import Path
from runs.__main__ import main
status = main(sys.argv[2:])
Path(sys.argv[1]).write_text(re.search("VmHWM: *(.*) kB", Path("/proc/self/status").read_text().replace("\\t", " "))[1])
sys.exit(status)
"""


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    epochs, searches, lines, rounds = (20, 20, 2_000, 1) if quick else (200, 500, LINES, 5)
    case = f"{epochs} epochs, {searches * GENERATIONS:,} generations"
    rows, ratios = [], []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_run(root / "large", epochs, searches, GENERATIONS)
        add_snapshots(root / "large", range(1, searches + 1, max(1, searches // 10)))
        for command in ("curves", "patterns", "gallery", "report"):
            found = [called(root, command, "large") for _ in range(rounds)]
            seconds, peaks = [took for took, _ in found], [peak for _, peak in found]
            rows.append(row(case, f"./run {command}", seconds, "s"))
            rows.append(row(case, f"./run {command}, peak memory", peaks, "MiB"))
            if command in TARGETS and not quick:
                ratios.append(against(case, f"./run {command}", TARGETS[command], rows[-2]["median"]))
        if not quick:
            ratios.append(against(case, "./run report, peak memory", REPORT_MIB, rows[-1]["median"]))
        size = (root / "large" / "report.html").stat().st_size / 2**20
        rows.append(row(case, "report.html", [size], "MiB"))
        make_run(root / "long", 1, lines // GENERATIONS, GENERATIONS)
        case = f"{lines:,} lines of generations.jsonl"
        seconds = [timed(lambda: read_lines(root / "long" / "generations.jsonl")) for _ in range(rounds)]
        rows.append(row(case, "read", seconds, "s"))
        if not quick:
            ratios.append(against(case, "read", TARGETS["lines"], rows[-1]["median"]))
    return rows, ratios


def against(case: str, name: str, allowed: float, measured: float) -> dict[str, Any]:
    """The allowed over the measured."""
    return {"case": case, "over": f"{name}, {allowed:g} allowed", "value": allowed / measured, "target": 1.0}


def called(root: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and peak MiB of a command of its own process."""
    environment = {**os.environ, "EVOMIX_OUT": str(root), "PYTHONPATH": str(PROJECT)}
    told = root / "peak"
    command = [sys.executable, "-c", TOLD, str(told), *arguments]
    seconds = timed(lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=root))
    return seconds, int(told.read_text()) / 1024


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def add_snapshots(folder: Path, numbers: range) -> None:
    """Searches of random compositions kept whole, and the bank of their patterns."""
    rng = np.random.default_rng(0)
    log = RunLog(folder)
    names = [str(digit) for digit in range(10)]
    bank = PatternBank(GRID, len(names), names)
    for number in numbers:
        log.epoch = number
        labels = rng.integers(0, len(names), BATCH)
        images = torch.from_numpy(rng.integers(0, 256, (BATCH, 3, 32, 32), dtype=np.uint8))
        elites = [random_elites(rng) for _ in range(GENERATIONS)]
        for each in elites:
            bank.collect(each.masks[0], labels, labels[each.pairings[0]])
        lineage = {
            "parents": np.full((GENERATIONS, 2), -1, np.int32),
            "operators": np.full((GENERATIONS, 3), -1, np.int32),
            "born": np.arange(1, GENERATIONS + 1, dtype=np.int32),
            "names": np.array([], dtype=np.str_),
            "survivors": np.zeros((GENERATIONS, 1), np.int32),
        }
        log.search(SearchRecord(number, images, torch.from_numpy(labels), elites, lineage), names)
    save_bank(bank, folder / "patterns" / "bank.npz")


def random_elites(rng: np.random.Generator) -> Elites:
    """One genome."""
    losses = rng.gamma(4, 0.5, (1, BATCH, GRID, GRID)).astype(np.float32)
    return Elites(
        masks=MASK_SAMPLERS["bernoulli"](BATCH, GRID, rng)[None],
        pairings=rng.permutation(BATCH).astype(np.int32)[None],
        fitness=losses.mean((1, 2, 3)).astype(np.float64),
        cell_losses=losses,
        scores=losses.mean((2, 3)),
        ids=np.zeros(1, np.int32),
        age=np.zeros(1, np.int32),
    )
