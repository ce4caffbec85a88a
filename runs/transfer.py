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

    import torch  # 5 s

    from training.data.load import load_data
    from training.models.patch_model import build_model
    from training.models.trained import Prepare, load_trained, pick_device
    from training.transfer import backbone_features, linear_probe

    device = pick_device(target.run)
    training, test = (part.to(device) for part in load_data(target.data))
    classes = len(training.class_names)
    print(f"linear probe on {dataset}: {len(training):,} training, {len(test):,} test images", file=sys.stderr)
    print(f"{'run':<40} {'accuracy':>9} {'weight decay':>13}")
    for run, config in zip(runs, configs, strict=True):
        source = load_data(config.data)[0]
        model, prepare = load_trained(config, run.path, source.shape, len(source.class_names), device)
        torch.manual_seed(config.run.seed)
        untrained = build_model(config.model, source.shape, len(source.class_names)).to(device)
        for name, network, scaling in (
            (run.name, model, prepare),
            (f"  its {config.model.name}, untrained", untrained, Prepare(*training.statistics(), device)),
        ):
            if network is untrained and prepare.mean.shape != scaling.mean.shape:
                scaling = prepare
            probed = linear_probe(
                backbone_features(network, scaling, training, source.shape),
                backbone_features(network, scaling, test, source.shape),
                classes,
            )
            print(f"{name:<40} {probed.accuracy:>7.2f} % {probed.weight_decay:>13.0e}", flush=True)
