"""`./run bench speed`: training images a second of plain, patchmix and evolved, and the share of the chip's matrix
rate that they reach.

ResNet-18 on CIFAR at 32 px, bfloat16, as the recipe cifar100 trains it, batches of 512 and 1,024: whole epochs from
the loading of batches to the last optimizer step, tests left out, the mixes in turn, the first epoch (it compiles)
not counted. Without a GPU, and with --quick, small batches and few images. Floating-point operations are counted by
torch.utils.flop_counter, those of the search's forwards too; the chip's rate is its maker's figure for dense
bfloat16, or, where that is not known, what a large matrix product reaches here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from runs.benchmarks import row
from runs.benchmarks.images import recipe_at_hand
from training.config import Config, load_config
from training.devices import clock
from training.progress import Progress
from training.run import Run, set_up
from training.run_events import begin_run
from training.train import train_epoch

MIXES = ("plain", "patchmix", "evolved")
PLAIN_TARGET = 30_000  # images a second on a data-centre GPU: 200 epochs of CIFAR in 6 minutes
# Dense bfloat16 operations a second as the makers give them, by words of the device's name; the first that fits.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
SILENT = Progress(visible=False)


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    gpu = torch.cuda.is_available()
    batches = (512, 1024) if gpu else (16,) if quick else (64, 128)
    rounds = 2 if quick else 5
    rows, ratios = [], []
    recipe = recipe_at_hand(["cifar100", "cifar10"])  # what is on the images does not matter here
    for batch in batches:
        configs = {mix: _config(recipe, mix, batch, rounds, quick) for mix in MIXES}
        with tempfile.TemporaryDirectory() as scratch:
            runs = {mix: set_up(config, Path(scratch) / mix) for mix, config in configs.items()}
            measured = _epochs(runs, rounds)
            peak, source = _peak(runs["plain"])
        case = f"ResNet-18, {recipe}, B{batch}, {runs['plain'].autocast or torch.float32}".replace("torch.", "")
        print(f"{case}: {runs['plain'].device}, {peak / 1e12:,.1f} TFLOP/s {source}")
        for mix, epochs in measured.items():
            rows.append(
                row(case, f"{mix}, images/s", [images / seconds for images, _, seconds in epochs], "images/s", "torch")
            )
            shares = [100 * operations / seconds / peak for _, operations, seconds in epochs]
            rows.append(row(case, f"{mix}, of the matrix rate", shares, "%", "torch"))
        plain = median(images / seconds for images, _, seconds in measured["plain"])
        target = 1.0 if gpu and not quick else None
        ratios.append(
            {
                "case": case,
                "over": f"plain / {PLAIN_TARGET:,} images/s",
                "value": plain / PLAIN_TARGET,
                "target": target,
            }
        )
    return rows, ratios


def _epochs(runs: dict[str, Run], rounds: int) -> dict[str, list[tuple[int, float, float]]]:
    """Of each mix and round: images trained on, floating-point operations, seconds."""
    step, forward = {}, {}
    for mix, run in runs.items():
        begin_run(run)
        step[mix], forward[mix] = operations(run)
    measured: dict[str, list[tuple[int, float, float]]] = {mix: [] for mix in runs}
    for epoch in range(1, rounds + 2):
        for mix, run in runs.items():
            steps = run.state.step
            searched = run.cost()["search_forwards"]
            began = clock(run.device)
            train_epoch(run, epoch, SILENT)
            seconds = clock(run.device) - began
            images = (run.state.step - steps) * run.config.train.batch_size
            done = images * step[mix] + (run.cost()["search_forwards"] - searched) * forward[mix]
            if epoch > 1:
                measured[mix].append((images, done, seconds))
    for run in runs.values():
        run.log.close()
    return measured


def operations(run: Run) -> tuple[float, float]:
    """Floating-point operations per image of a training step (forward and backward), and of a forward alone."""
    images = torch.zeros(2, *run.training_set.shape, dtype=torch.uint8, device=run.device)
    run.model.eval()  # statistics are left alone
    with FlopCounterMode(display=False) as forward:
        image_logits, cell_logits = run.model(run.prepare(images))
    with FlopCounterMode(display=False) as backward:
        loss = image_logits.sum() + (cell_logits.sum() if run.config.mix.kind.trains_cells else 0)
        loss.backward()
    run.model.zero_grad()
    return (forward.get_total_flops() + backward.get_total_flops()) / 2, forward.get_total_flops() / 2


def _peak(run: Run) -> tuple[float, str]:
    """Operations a second of the device, and where the figure is from."""
    name = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else ""
    known = next((rate for words, rate in PEAKS.items() if words in name), None)
    if known is not None and run.autocast is torch.bfloat16:
        return known, f"dense bfloat16, as its maker says of {name}"
    size = 8192 if run.device.type == "cuda" else 1024
    matrix = torch.rand(size, size, device=run.device, dtype=run.autocast or torch.float32)
    seconds = []
    for _ in range(6):
        began = clock(run.device)
        matrix @ matrix
        seconds.append(clock(run.device) - began)
    return 2 * size**3 / min(seconds), f"in a product of {size}x{size} matrices here"


def _config(recipe: str, mix: str, batch: int, rounds: int, quick: bool) -> Config:
    gpu = torch.cuda.is_available()
    overrides = [
        f"mix.name={mix}",
        f"train.batch_size={batch}",
        f"train.epochs={rounds + 1}",
        "data.download=false",
        "train.warmup=0",
    ]
    if not gpu:
        classes = 100 if recipe == "cifar100" else 10
        overrides.append(f"data.subset={max(1, (4 if quick else 8) * batch // classes)}")
    if recipe == "digits":
        overrides += ["model.name=resnet18", "model.grid=1"]
    if quick and not gpu:
        overrides += ["model.width=8", "run.threads=1"]
    return load_config(recipe, overrides)
