"""Options and values of older versions that were removed, each with the reason.

Configs that name them are still read. Where an option has the value that does what today's code does, it is left out.
With another value the run can be looked at and compared, but not gone on with or run anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from evo.errors import UserError


class Removed(NamedTuple):
    """An option that was removed.

    Attributes:
        value: What does the same as today's code.
        why: The measurement that spoke against the other values.
        instead: What to do in their place.
    """

    value: Any
    why: str
    instead: str


REMOVED = {  # the values are also in analysis/run_format.py, which imports nothing from here
    "search.rows": Removed(
        1.0,
        "searching half of each batch ended 0.45 points below random PatchMix, searching all of it 0.19 below "
        "(runs/results/cifar10-1000-search, one seed)",
        "to search less, set search.every higher or search.population lower",
    ),
    "search.weights": Removed(
        "live",
        "scoring with the averaged weights ended 0.43 points below random PatchMix, with the live ones 0.19 below "
        "(runs/results/cifar10-1000-search, one seed)",
        "to make use of the average, set search.objective=image_reducible, which compares the live model with it",
    ),
    "search.carry": Removed(
        False,
        "starting from the live bank made compositions 0.009 nats harder, about as much as the noise of that measurement "
        "(runs/results/schedules)",
        "to start from known patterns, set search.start to a pattern file",
    ),
    "search.bank_pairing": Removed(
        "random",
        "pairing by class changed the hardness of compositions by no more than 0.004 nats (runs/results/schedules), and "
        "searches pair classes as chance does (runs/results/README.md)",
        "leave it out: partners between searches are drawn at random",
    ),
    "search.rescore": Removed(
        "hold",
        "taking training steps between generations trains on elites that are hardly selected yet, and the last ones are "
        "0.075 nats harder (runs/results/schedules)",
        "leave it out: a search ends before the training steps on its elites",
    ),
}
RENAMED = {"search.consume": {"auto": "last"}}  # values that are written otherwise now
FORMER_NAMES = {  # of options, with today's; both are read. Also in analysis/run_format.py
    "train.batch": "batch_size",
    "train.eval_batch": "eval_batch_size",
    "train.optimiser": "optimizer",
    "search.batch": "batch_size",
    "search.forward_batch": "forward_batch_size",
}


def with_todays_names(sections: Mapping[str, Any]) -> dict[str, Any]:
    """A config's sections with options called as today.

    Raises:
        UserError: An option stands there by both its names.
    """
    found = {name: dict(keys) if isinstance(keys, Mapping) else keys for name, keys in sections.items()}
    for option, today in FORMER_NAMES.items():
        section, _, name = option.partition(".")
        keys = found.get(section)
        if not isinstance(keys, dict) or name not in keys:
            continue
        if today in keys:
            raise UserError(f"{section}: {name} and {today} are one option by two names; expected {today} alone")
        found[section] = {today if key == name else key: value for key, value in keys.items()}
    return found


def refusals(sections: Mapping[str, Any]) -> list[str]:
    """A line for each removed option of a config whose value does something that no longer exists."""
    return [
        f"{option}={_text(value)}: this option was removed, because {REMOVED[option].why}; {REMOVED[option].instead}"
        for option, value in departing(sections).items()
    ]


def departing(sections: Mapping[str, Any], settings: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The removed options of a config, by their dotted names, with values that do something that no longer exists.

    Args:
        sections: Of the config.
        settings: Values by dotted names, which replace those of the sections.
    """
    named = {**dict(_named(sections)), **{name: value for name, value in settings.items() if name in REMOVED}}
    return {option: value for option, value in named.items() if not _same(value, REMOVED[option].value)}


def without(sections: Mapping[str, Any]) -> dict[str, Any]:
    """A config's sections without removed options, whatever their values, and with today's names of values."""
    found = with_todays_names(sections)
    for option, _ in _named(sections):
        section, _, name = option.partition(".")
        del found[section][name]
    for option, names in RENAMED.items():
        section, _, name = option.partition(".")
        keys = found.get(section)
        if isinstance(keys, dict) and isinstance(keys.get(name), str):
            keys[name] = names.get(keys[name], keys[name])
    return found


def _named(sections: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The removed options that a config names, with their values."""
    for option in REMOVED:
        section, _, name = option.partition(".")
        keys = sections.get(section)
        if isinstance(keys, Mapping) and name in keys:
            yield option, keys[name]


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{json.dumps(value, default=str):.60}"
