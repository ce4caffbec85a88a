"""Runs grouped by setting: their configs are equal but for the seed, the name and where they ran."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.run_folder import RunFolder

NO_SETTING = ("run.", "data.root", "data.download", "schema")
SEARCHING = ("evolved", "best-of-k")  # mixes for which the options of `search` count


class Setting(NamedTuple):
    name: str
    runs: list[RunFolder]

    @property
    def seeds(self) -> list[int]:
        return [seed_of(run) for run in self.runs]


def seed_of(run: RunFolder) -> int:
    return int(run.config["run"]["seed"])


def counted(run: RunFolder) -> dict[str, Any]:
    """The options that make the run's setting, by their dotted names."""
    idle = () if run.mix in SEARCHING else ("search.",)
    return {name: value for name, value in flat(run.config).items() if not name.startswith((*NO_SETTING, *idle))}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options by their dotted names, as ./run train -s takes them."""
    options: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            options |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name != "schema":
            options[name] = value
    return options


def settings_of(runs: Sequence[RunFolder]) -> list[Setting]:
    """The runs by setting, in their order. A seed that comes again with the same setting begins another one.

    Options that one of the configs lacks, being of an older version, do not count.
    """
    known = set.intersection(*(set(flat(run.config)) for run in runs))
    groups: dict[tuple[str, int], list[RunFolder]] = {}
    for run in runs:
        options = {name: value for name, value in counted(run).items() if name in known}
        key = json.dumps([options, run.start.get("model")], sort_keys=True)
        again = 0
        while seed_of(run) in [seed_of(other) for other in groups.get((key, again), [])]:
            again += 1
        groups.setdefault((key, again), []).append(run)
    names = _names(list(groups.values()))
    return [Setting(name, found) for name, found in zip(names, groups.values(), strict=True)]


def _names(groups: Sequence[Sequence[RunFolder]]) -> list[str]:
    """What the runs of each group have in common in their names; the first run's whole name where that is not unique."""
    common = [_common([run.name for run in group]) for group in groups]
    return [
        name if name and common.count(name) == 1 else group[0].name for name, group in zip(common, groups, strict=True)
    ]


def _common(names: Sequence[str]) -> str:
    """The names without the seed at their end, where that makes them one; else the first."""
    if len(names) == 1:
        return names[0]
    bases = {re.sub(r"[-_./]*(seed|s)?\d+$", "", name) for name in names}
    return bases.pop() if len(bases) == 1 else names[0]


def differing(settings: Sequence[Setting]) -> dict[str, list[Any]]:
    """Options in which settings differ: the value of each setting, by option; – where it does not count."""
    configs = [counted(setting.runs[0]) for setting in settings]
    found = {}
    for name in dict.fromkeys(key for config in configs for key in config):
        values = [config[name] for config in configs if name in config]
        if any(value != values[0] for value in values):
            found[name] = [config.get(name, "–") for config in configs]
    return found
