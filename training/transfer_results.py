"""Outcomes of transfers that a run's folder keeps, each with all that it depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from evo.errors import UserError
from training.checkpoint import write_atomically
from training.config import Config
from training.transfer import (
    HELD_OUT,
    LBFGS_ITERATIONS,
    LBFGS_LIMIT,
    LINEAR_DECAYS,
    NEIGHBOURS,
    SGD_BATCH,
    SGD_EPOCHS,
    SGD_MOMENTUM,
    SGD_STEPS,
    TEMPERATURE,
    TRIAL_IMAGES,
    TRIAL_STEPS,
    Outcome,
    Source,
    Target,
    open_source,
    tried_decays,
    tried_rates,
)

SCHEMA = 1


def about_backbone(source: Source, config: Config, device: torch.device) -> dict[str, Any]:
    """What identifies a backbone; opens it, and so checks it. config: of the transfer.

    Raises UserError as open_source does.
    """
    backbone = open_source(source, config, device)
    about: dict[str, Any] = {"precision": str(backbone.autocast or torch.float32).removeprefix("torch.")}
    if source.weights == "untrained":
        about |= {
            "untrained": source.config.model.model_dump(exclude={"grid", "pretrained"}),
            "shape": list(backbone.shape),
            "input": [backbone.prepare.mean.tolist(), backbone.prepare.std.tolist()],
            "seed": source.config.run.seed,
        }
    else:
        about |= {"checkpoint": weights_digest(source.folder), "weights": source.weights}
    return about


def weights_digest(folder: Path) -> str:
    """The sha256 of the weights of a run's latest checkpoint. Raises UserError where it is gone."""
    try:
        index = json.loads((folder / "checkpoint" / "latest.json").read_text(encoding="utf-8"))
        return str(index["sha256"]["tensors"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: its checkpoint was removed or moved while it was read") from None


def check_same_weights(source: Source, about: dict[str, Any]) -> None:
    """Raise UserError where a source that was opened again has other weights than those its outcomes are kept for."""
    if "checkpoint" in about and weights_digest(source.folder) != about["checkpoint"]:
        raise UserError(
            f"{source.folder} has another checkpoint now than a moment ago: the run goes on; transfer it when it has ended"
        )


def identity(about: dict[str, Any], target: Target, method: str, seed: int, config: Config) -> dict[str, Any]:
    """All that an outcome depends on, of JSON's types: what tells whether a kept one may be used again."""
    settings: dict[str, Any] = {"name": method, "seed": seed, "held_out": HELD_OUT}
    if method == "linear":
        settings |= {"weight_decays": list(LINEAR_DECAYS), "lbfgs": [LBFGS_ITERATIONS, LBFGS_LIMIT]}
        settings["sgd"] = [SGD_EPOCHS, SGD_STEPS, SGD_BATCH, SGD_MOMENTUM]
    elif method == "knn":  # draws nothing
        settings = {"name": method, "neighbours": NEIGHBOURS, "temperature": TEMPERATURE}
    else:
        names = {"epochs", "momentum", "label_smoothing"}
        settings |= {"lr": list(tried_rates(config.train)), "weight_decay": list(tried_decays(config.train))}
        settings |= {"trials": [TRIAL_STEPS, TRIAL_IMAGES], **config.train.model_dump(include=names)}
        settings["batch"] = config.train.batch_size  # as kept outcomes of older versions call it
    data = target.options.model_dump(exclude={"root", "download", "resident", "max_unreadable"})
    data |= {"content": target.content, "training": len(target.training), "test": len(target.test)}
    return {"backbone": about, "data": data, "method": settings}


def kept_file(folder: Path, dataset: str, wanted: dict[str, Any]) -> Path:
    """Where a run's folder keeps the outcome with this identity."""
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:12]
    untrained = "untrained-" if "untrained" in wanted["backbone"] else ""
    return folder / "transfer" / f"{dataset}-{wanted['method']['name']}-{untrained}{digest}.json"


def kept(path: Path, wanted: dict[str, Any]) -> Outcome | None:
    """The outcome in a file; None where there is none with this identity."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA or data["identity"] != wanted:
            return None
        return Outcome(**data["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, wanted: dict[str, Any], outcome: Outcome) -> None:
    """Write an outcome with its identity, atomically."""
    if not path.parent.parent.is_dir():
        raise UserError(
            f"{path.parent.parent} was removed or moved while it was transferred; its outcomes are not kept"
        )
    path.parent.mkdir(exist_ok=True)
    data = {"schema": SCHEMA, "identity": wanted, "outcome": asdict(outcome)}
    write_atomically(path, json.dumps(data, indent=1) + "\n")
