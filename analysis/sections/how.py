"""How a run was made: command, code, machine, options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from analysis.run_folder import RunFolder
from analysis.run_format import REMOVED
from analysis.run_settings import flat
from analysis.sections.parts import section


def how(runs: Sequence[RunFolder], defaults: Mapping[str, Any] | None = None) -> str:
    """Command to repeat, environment and options; each run of several folded away under its name."""
    known = None if defaults is None else flat(defaults)
    if len(runs) == 1:
        return section("how", "How it was run", _run(runs[0], known))
    parts = [f"<details><summary>{escape(run.name)}</summary>\n{_run(run, known)}\n</details>" for run in runs]
    return section("how", "How they were run", *parts)


def _run(run: RunFolder, defaults: Mapping[str, Any] | None) -> str:
    environment = run.environment
    packages = environment.get("packages") or {}
    facts = {
        "code": environment.get("commit"),
        "date": environment.get("date"),
        "device": ", ".join(str(environment[key]) for key in ("device", "device_name") if environment.get(key)),
        "threads": environment.get("threads"),
        "processes": run.start.get("processes"),
        "Python": environment.get("python"),
        "packages": ", ".join(f"{name} {number}" for name, number in packages.items() if number),
        "platform": environment.get("platform"),
    }
    rows = "\n".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    return "\n".join(
        [_command(run), f"<table class='facts-table'>\n<tbody>\n{rows}\n</tbody>\n</table>", _options(run, defaults)]
    )


def _command(run: RunFolder) -> str:
    """The command as it was typed, with a button that copies it."""
    command = run.environment.get("command")
    if not command:
        return ""
    return (
        f"<div class='command'><pre tabindex='0' aria-label='Command to repeat the run'><code>{escape(str(command))}</code>"
        "</pre><button type='button' class='copy'>Copy</button></div>"
    )


def _options(run: RunFolder, defaults: Mapping[str, Any] | None) -> str:
    """Every option; those that differ from the default are marked, where the defaults are known."""
    options = flat(run.config)
    changed = {
        name for name, value in options.items() if defaults is not None and name in defaults and value != defaults[name]
    }
    rows = []
    for name, value in options.items():
        shown = escape(_text(value))
        if defaults is None:
            rows.append(f"<tr><th scope='row'>{escape(name)}</th><td>{shown}</td></tr>")
            continue
        default = _text(defaults[name]) if name in defaults else "removed since" if name in REMOVED else "–"
        mark = f"<strong>{shown}</strong> <span class='changed'>changed</span>" if name in changed else shown
        rows.append(f"<tr><th scope='row'>{escape(name)}</th><td>{mark}</td><td>{escape(default)}</td></tr>")
    heads = ("option", "value") if defaults is None else ("option", "value", "default")
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    count = f", {len(changed)} of them not at their default" if defaults is not None else ""
    body = "\n".join(rows)
    return (
        f"<details><summary>All {len(options)} options{count}</summary>\n<div class='wide' tabindex='0' role='group' "
        f"aria-label='Options'><table class='options'>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        "</table></div></details>"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
