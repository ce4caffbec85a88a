"""Made-up run folders of any size, for what reads them: format version 2, without training anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, POPULATION = 64, 16


def make_run(
    folder: Path,
    epochs: int,
    searches: int,
    generations: int,
    seed: int = 0,
    *,
    objectives: Sequence[str] = ("hard",),
    options: Sequence[str] = (),
) -> Path:
    """Write config.json, environment.json, log.jsonl and generations.jsonl of an evolved run that has ended.

    searches: of the whole run, spread over the epochs. options: of the digits recipe, as -s takes them. The fitness
    rises within a search and falls over the training; seeds differ a little. Takes 2 s for 50,000 generations.
    """
    from training.config import load_config

    rng = np.random.default_rng(seed)
    changes = [f"run.seed={seed}", f"train.epochs={epochs}", "train.warmup=0", f"search.population={POPULATION}"]
    changes += [f"search.generations={generations}", f"search.objective={','.join(objectives)}", *options]
    config = {"schema": 2, **load_config("digits", changes).model_dump()}
    (folder / "elites").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "environment.json").write_text(
        json.dumps({"schema": 2, "command": "./run train digits", "packages": {}}), encoding="utf-8"
    )
    _write(folder / "log.jsonl", _events(epochs, rng))
    _write(folder / "generations.jsonl", _generations(epochs, searches, generations, objectives, rng))
    return folder


def _write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _events(epochs: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    steps = 10
    yield {"schema": 2}
    yield {
        "event": "start", "time": start.isoformat(), "epochs": epochs, "steps": epochs * steps, "training_images": 640,
        "test_images": 360, "classes": [str(digit) for digit in range(10)], "grid": 4, "parameters": 1000,
    }  # fmt: skip
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        accuracy = 95 - 85 * 0.98**epoch + rng.normal(0, 0.5)
        yield {
            "event": "epoch", "time": (start + timedelta(seconds=epoch)).isoformat(), "epoch": epoch,
            "image_loss": 2.3 * 0.99**epoch, "cell_loss": 2.3 * 0.995**epoch, "training_accuracy": accuracy,
            "accuracy": accuracy, "test_loss": 2.3 * 0.99**epoch, "step": epoch * steps,
            "image_forwards": epoch * 900, "search_forwards": epoch * 260, "seconds": float(epoch),
            "search_seconds": 0.3 * epoch,
        }  # fmt: skip
    yield {
        "event": "end", "time": (start + timedelta(seconds=epochs)).isoformat(), "last_accuracy": accuracy,
        "median10_accuracy": accuracy, "steps": epochs * steps, "image_forwards": epochs * 900,
        "search_forwards": epochs * 260, "seconds": float(epochs), "search_seconds": 0.3 * epochs, "test_images": 360,
    }  # fmt: skip


def _generations(
    epochs: int, searches: int, generations: int, objectives: Sequence[str], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    yield {"schema": 2}
    level = rng.normal(0, 0.05)
    for search in range(1, searches + 1):
        epoch = 1 + (search - 1) * epochs // searches
        forwards = 0
        floor = 1 + 1.3 * 0.98**epoch + level + rng.normal(0, 0.02)
        for generation in range(1, generations + 1):
            new = IMAGES * POPULATION if generation == 1 else int(rng.integers(40, 110))
            forwards += new
            gain = 1 - 0.8 ** (generation - 1)
            spread = 0.05 * 0.9 ** (generation - 1) + 0.003
            best = floor + gain
            record: dict[str, Any] = {
                "epoch": epoch, "step": (epoch - 1) * 10 + 1, "search": search, "images": IMAGES,
                "generation": generation, "new_rows": new, "full_rows": IMAGES * POPULATION, "forwards": forwards,
                "nonfinite": 0, "best": best, "median": best - 1.8 * spread, "mean": best - 2 * spread, "std": spread,
                "min": best - 4 * spread, "diversity": 0.9 - 0.6 * gain,
            }  # fmt: skip
            yield record | _several(objectives, best, gain, spread, rng)


def _several(
    objectives: Sequence[str], best: float, gain: float, spread: float, rng: np.random.Generator
) -> dict[str, Any]:
    """What a line of several objectives has besides: the others' values, and a front of 12 genomes."""
    if len(objectives) == 1:
        return {}
    along = np.sort(rng.random((12, len(objectives) - 1)), axis=0)
    others = 0.3 + 0.2 * gain + 0.3 * along
    front = np.column_stack([best - 8 * spread * along.mean(axis=1) ** 2, others])
    record: dict[str, Any] = {"objectives": list(objectives), "front": front.round(6).tolist()}
    record["hypervolume"] = float((best - 0.5) * others.max(axis=0).prod())
    for number, name in enumerate(objectives[1:]):
        values = others[:, number]
        record |= {f"{name} best": float(values.max()), f"{name} mean": float(values.mean())}
    return record
