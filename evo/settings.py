"""The options of a search, once: type, bounds, default and meaning. The trainer's options are these and its schedule.

To add one is a line in SearchSettings and the place that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from evo.errors import UserError, did_you_mean
from evo.objectives import OBJECTIVES, parse_objectives
from evo.operators import ALL_CROSSOVERS, APART_CROSSOVERS, MASK_MUTATIONS, MASK_SAMPLERS, PAIRING_MUTATIONS
from evo.selection import SELECTIONS
from evo.variation import parse_shares

Evaluation = Literal["auto", "incremental", "full"]
Duplicates = Literal["remove", "redraw", "keep"]
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("above", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
}


def option(
    default: Any,
    description: str,
    *,
    names: Iterable[str] = (),
    check: Callable[[str], object] | None = None,
    **bounds: float,
) -> Any:
    """Declare a field of SearchSettings.

    Args:
        default: Its value where none is given.
        description: One line for people.
        names: Of an option that is a name, those there are.
        check: A function that raises ValueError for a text that cannot be read.
        **bounds: `ge`, `gt` and `le`, of numbers.

    Returns:
        The dataclass field.
    """
    return field(
        default=default,
        metadata={"description": description, "names": tuple(names), "check": check, "bounds": bounds},
    )


def _join_names(registry: Mapping[str, Any]) -> str:
    return " | ".join(registry)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search does, whatever batch it is over.

    The defaults are those of the search within training that gained most at 1.35 times the time of random PatchMix
    (runs/results/cifar10-1000-p1). `settings_help()` lists all fields with their meaning.

    Raises:
        UserError: A value has another type, is out of bounds or unknown.

    Example:
        >>> SearchSettings(population=16, objective="hard", generations=20).population
        16
    """

    population: int = option(4, "genomes, P (of each island)", ge=1, le=100_000)
    generations: int | None = option(None, "generations of a search, T; null: no limit", ge=1, le=100_000)
    objective: str = option(
        "image_reducible",
        f"what the search prefers, of {_join_names(OBJECTIVES)}; a weighted sum such as hard+0.5*contrast, or several at "
        "once: hard,diversity",
        check=parse_objectives,
    )
    sampler: str = option("box", "what the first generation's masks are drawn from", names=MASK_SAMPLERS)
    evaluation: Evaluation = option(
        "auto",
        "incremental: forward new rows only; full: every row of every new genome, in batches that are whole genomes; auto: "
        "incremental, but in training full for a model whose samples influence each other",
    )
    selection: str = option("tournament", "how parents are picked", names=SELECTIONS)
    crossover: str = option(
        "assignment",  # this and the mutations below: fittest at equal image forwards in trials
        f"how parents are combined, of {' | '.join(name for name in ALL_CROSSOVERS if name not in APART_CROSSOVERS)}, or "
        "MASKS/PAIRINGS such as block/ox; several with their shares of the children: 0.5*rows+0.5*assignment",
        check=partial(parse_shares, registry=ALL_CROSSOVERS, kind="crossover"),
    )
    mask_mutation: str = option(
        "flip",
        f"how masks vary, of {_join_names(MASK_MUTATIONS)}, or several",
        check=partial(parse_shares, registry=MASK_MUTATIONS, kind="mask mutation"),
    )
    pairing_mutation: str = option(
        "swap",
        f"how pairings vary, of {_join_names(PAIRING_MUTATIONS)}, or several",
        check=partial(parse_shares, registry=PAIRING_MUTATIONS, kind="pairing mutation"),
    )
    adaptive: bool = option(False, "let operators' shares follow what their children gain")
    duplicates: Duplicates = option("remove", "copies of a genome: removed, redrawn or kept")
    min_cells: int = option(0, "cells that each mask keeps and gives away at least", ge=0)
    self_pairing: bool = option(True, "whether an image may be its own partner")
    same_class: bool = option(True, "whether a partner may be of the image's own class")
    hold: bool = option(False, "every row keeps the share of cells and the class relation it drew at first")
    start_share: float = option(
        0.5, "share of the first generation that comes from a start, if one is given", gt=0, le=1
    )
    temperature: float = option(
        0.5,
        "how much is left to chance where compositions are dealt from scores of all pairs, in standard deviations of these; "
        "0: the best of all",
        ge=0,
    )
    budget: float | None = option(
        None,
        "image forwards per image of the search batch, at most; the reference's count too. Of scores that are estimates it "
        "counts rows scored, as if each were forwarded",
        ge=1,
    )
    patience: int | None = option(
        None,
        "generations without a better genome after which a search ends; of several objectives: without growth of the "
        "hypervolume of the front of all genomes evaluated",
        ge=1,
    )
    target: float | None = option(None, "fitness at which a search ends; of several objectives: hypervolume")
    minutes: float | None = option(None, "time after which a search ends, at the end of a generation", gt=0)
    max_nonfinite: float = option(
        0.5, "share of rows with NaN or infinite losses beyond which a search stops", ge=0, le=1
    )

    @classmethod
    def list_names(cls, name: str) -> tuple[str, ...]:
        """List what an option of names may be.

        Args:
            name: The option's.

        Returns:
            The names.

        Example:
            >>> SearchSettings.list_names("sampler")
            ('bernoulli', 'box', 'connected')
        """
        names: tuple[str, ...] = cls.__dataclass_fields__[name].metadata["names"]
        return names

    def __post_init__(self) -> None:
        hints: dict[str, Any] = _read_hints(type(self))  # type: ignore[arg-type]  # classes can be hashed
        for one in fields(self):
            object.__setattr__(self, one.name, _check_value(one, hints[one.name], getattr(self, one.name)))


def make_settings(settings: SearchSettings | None, changes: Mapping[str, Any]) -> SearchSettings:
    """Change settings.

    Args:
        settings: What to begin with; None: the defaults.
        changes: Values by name.

    Returns:
        Settings with these values.

    Raises:
        UserError: There is no such setting, or a value does not fit it.

    Example:
        >>> make_settings(SearchSettings(population=16), {"objective": "hard"}).population
        16
    """
    base = settings or SearchSettings()
    names = [one.name for one in fields(base)]
    for name in changes:
        if name not in names:
            raise UserError(
                f"a search has no setting {name!r}{did_you_mean(name, names)} (settings: {', '.join(names)})"
            )
    return replace(base, **changes)


def settings_help() -> str:
    """Describe every setting.

    Returns:
        A line for each: name, default, meaning.
    """
    return "\n".join(
        f"{one.name:<17} {one.default!s:<16} {one.metadata['description']}" for one in fields(SearchSettings)
    )


@cache
def _read_hints(kind: Any) -> dict[str, Any]:
    """A class's annotations, which are texts: to read them takes longer than all checks."""
    return get_type_hints(kind)


def _check_value(one: Field[Any], hint: Any, value: Any) -> Any:
    """A value as plain Python, where it is what the field may be."""
    value = value.item() if isinstance(value, np.generic) else value
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not NoneType)
    if get_origin(kind) is Literal:
        _check_name(one.name, value, get_args(kind))
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        words = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}[kind]
        raise UserError(f"{one.name} must be {words}{' or None' * (NoneType in kinds)}, got {value!r:.60}")
    for bound, limit in one.metadata["bounds"].items():
        words, is_within = BOUNDS[bound]
        if not is_within(value, limit):
            raise UserError(f"{one.name} must be {words} {limit:g}, got {value!r}")
    if one.metadata["names"]:
        _check_name(one.name, value, one.metadata["names"])
    if one.metadata["check"] is not None:
        one.metadata["check"](value)
    return value


def _check_name(option_name: str, value: Any, names: Iterable[str]) -> None:
    known = list(names)
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise UserError(f"unknown {option_name.replace('_', ' ')} {value!r:.60}{hint}; there are {', '.join(known)}")
