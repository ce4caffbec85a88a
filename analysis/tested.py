"""Which images runs were tested on: accuracies on different images are neither ranked nor subtracted.

A seed may have training images of its own (data.subset_start, data.subset_seed): that changes no test image, unless the
test images are training images that were set aside (data.validation), which are then those of that seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.run_folder import RunFolder

OPTIONS = ("name", "exclude_near_duplicates", "validation")  # of data, that say which images are tested on
OF_SEED = ("subset", "subset_start", "subset_seed")  # and where they are set aside from the training images, these
LEFT_OUT = {"exclude_near_duplicates": False}  # what runs did before there was the option
KNOWN_BY = {"test_images": "number of test images", "test": "test images"}


class Tested(NamedTuple):
    """What is known of the images that a run was tested on. who: how a person knows it; about: what decides, by name."""

    who: str
    seed: int
    about: dict[str, Any]


def images_of_test(run: RunFolder) -> Tested:
    """What a run's config and its `start` and `end` events tell."""
    ends = {**run.start, **(run.result or {})}
    classes = ends.get("classes")
    about = {
        **of_options(run.config["data"]),
        **({"number of classes": len(classes)} if isinstance(classes, list) else {}),
        **{meaning: ends[key] for key, meaning in KNOWN_BY.items() if key in ends},
    }
    return Tested(f"run {run.name}", int(run.config["run"]["seed"]), about)


def of_options(data: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `data` that say which images are tested on, by their dotted names."""
    names = (*OPTIONS, *(OF_SEED if data.get("validation") is not None else ()))
    return {f"data.{name}": data.get(name, LEFT_OUT.get(name)) for name in names}


def images_beside(table: Path) -> list[Tested]:
    """What lies beside a per_seed.csv and tells of its trials: trials.jsonl, else run folders; [] where neither does.

    Other people's tables may come with anything: what cannot be read tells nothing.
    """
    found = []
    try:
        lines = [json.loads(line) for line in (table.parent / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        lines = []
    for line in lines:
        try:
            who = f"variant {line['variant']}, seed {line['seed']} of {table.parent.name}"
            found.append(Tested(who, int(line["seed"]), of_options(line["config"]["data"])))
        except (LookupError, TypeError, ValueError, AttributeError):
            continue
    if found:
        return found
    for config in sorted(table.parent.glob("*-s*/config.json")):
        run = RunFolder(config.parent, forgiving=True)
        try:
            found.append(images_of_test(run.checked()))
        except ValueError:
            continue
    return found


def unlike(tests: Sequence[Tested]) -> str:
    """A clause that says which two were tested on different images, and what differs; "" where none were."""
    by_seed: dict[int, Tested] = {}
    for one in tests:
        for other, own in ((by_seed.setdefault(one.seed, one), True), (tests[0], False)):
            if what := _difference(other.about, one.about, own):
                values = " and ".join(_value(about.get(what)) for about in (other.about, one.about))
                return f"{other.who} and {one.who} were tested on different images ({what}: {values})"
    return ""


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], of_one_seed: bool) -> str:
    """The first thing known of both in which they differ; images of their own are a seed's right."""
    set_aside = one.get("data.validation") is not None
    free = {f"data.{name}" for name in OF_SEED} | set(KNOWN_BY.values()) - {"number of test images"}
    for name in one:
        known = name.startswith("data.") or name in other
        if known and one[name] != other.get(name) and (of_one_seed or not (set_aside and name in free)):
            return name
    return ""


def _value(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 40 else json.dumps(value)[:40]
