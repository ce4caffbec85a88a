"""What the options of all sections are made of: their base, names that are checked, and marks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

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
