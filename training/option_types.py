"""What the options of all sections are made of: their base, marks, and values that pydantic cannot check by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from evo.errors import did_you_mean


@dataclass(frozen=True)
class Idle:
    """Marks an option that cannot change what a run finds, and says why not.

    A finished trial of an ablation counts also where it differs, and a run may go on with another value.
    """

    why: str


@dataclass(frozen=True)
class Place(Idle):
    """Marks an option that says where something is. A run may go on with another place, where the same thing lies."""


class Section(BaseModel):
    """A section of a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def one_of(registry: Iterable[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """A name in a registry: checked with a suggestion, and listed where options are described."""
    names = list(registry)
    return AfterValidator(lambda name: check_name(name, names)), WithJsonSchema({"type": "string", "enum": names})


def check_name(name: str, names: list[str]) -> str:
    """The name. Raises ValueError, with what is near, where it is not among `names`."""
    if name not in names:
        raise ValueError(f"there is no {name!r}{did_you_mean(name, names)} (choose from {', '.join(names)})")
    return name


def model_name(registry: Iterable[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """A name in the registry of models, or timm:NAME, which is looked up when the model is built."""
    names = list(registry)

    def check(name: str) -> str:
        return name if re.fullmatch(r"timm:[\w.]+", name) else check_name(name, [*names, "timm:NAME"])

    return AfterValidator(check), WithJsonSchema({"type": "string", "enum": [*names, "timm:NAME"]})


def folder_name(name: str) -> str:
    """The name of a folder below runs/out, of parts joined by /. Raises ValueError."""
    parts = name.split("/")
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*", part) for part in parts):
        raise ValueError(f"expected a name of letters, digits and . _ - = + (parts joined by /), got {name!r:.60}")
    return name


def device_name(name: str) -> str:
    """The name of a device as run.device takes it. Raises ValueError."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:N, got {name!r:.60}")
    return name


def number_or_share() -> tuple[AfterValidator | BeforeValidator | WithJsonSchema, ...]:
    """A whole number from 1, or a share between 0 and 1."""

    def check(value: Any) -> int | float:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if (whole and value >= 1) or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(
            f"expected a number of images per class, or a share between 0 and 1 such as 0.2, got {value!r:.60}"
        )

    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return BeforeValidator(check), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, share]})


def check_levels(value: Any) -> Any:
    """Two numbers, black and white; JSON and YAML have lists."""
    numbers = isinstance(value, list | tuple) and [
        number for number in value if isinstance(number, int | float) and not isinstance(number, bool)
    ]
    if not numbers or len(value) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(f"expected two numbers [BLACK,WHITE], black below white, such as [0,4095], got {value!r:.60}")
    return float(numbers[0]), float(numbers[1])
