"""`./run transfer RUN... --dataset NAME`: a linear probe of trained backbones on another data set."""

from __future__ import annotations

import sys

from analysis.run_folder import find_run
from runs.folders import recorded_config
from training.config import UserError, make_config


def run_transfer(names: list[str], dataset: str, overrides: list[str]) -> None:
    runs = [find_run(name) for name in names]
    configs = [recorded_config(run) for run in runs]
    target = make_config({}, [f"data.name={dataset}", *overrides], "transfer", trains=False)
    for run in runs:
        if not (run.path / "checkpoint" / "latest.json").is_file():
            raise UserError(f"run {run.name} has no checkpoint to transfer; expected a run of ./run train")

    from training.data.load import load_data  # torch: 5 s
    from training.devices import pick_device
    from training.transfer import transfer

    device = pick_device(target.run)
    training, test = (part.to(device) for part in load_data(target.data))
    print(f"linear probe on {dataset}: {len(training):,} training, {len(test):,} test images", file=sys.stderr)
    print(f"{'run':<40} {'backbone':<10} {'accuracy':>9} {'weight decay':>13}")
    for run, config in zip(runs, configs, strict=True):
        for backbone, probed in transfer(config, run.path, (training, test), device).items():
            print(f"{run.name:<40} {backbone:<10} {probed.accuracy:>7.2f} % {probed.weight_decay:>13.0e}", flush=True)
