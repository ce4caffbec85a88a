"""Recipes: YAML files with options, what `-s` sets over them, and what is told of values that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from evo.errors import UserError, did_you_mean
from training import plain_yaml
from training.options import Config
from training.places import PROJECT, user_path
from training.removed import FORMER_NAMES

RECIPES = PROJECT / "runs" / "recipes"


def recipe_path(recipe: str) -> Path:
    """The file a recipe's name or path stands for."""
    named = RECIPES / f"{recipe}.yaml"
    for path in (named, user_path(recipe)):
        if path.is_file():
            return path
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    raise UserError(f"no recipe {recipe!r}{did_you_mean(recipe, names)} (recipes: {', '.join(names)}; or give a path)")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping, as plain_yaml reads it. Raises UserError in one line."""
    try:
        data = plain_yaml.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected sections such as `train:` with keys below them, got {data!r:.60}")
    return data


def override(sections: dict[str, Any], written: str) -> tuple[str, str]:
    """Set what `section.key=value` says; return both as they are written."""
    key, equals, text = written.partition("=")
    if not equals:
        raise UserError(f"-s {written}: expected section.key=value, e.g. -s train.epochs=5")
    section, name = split_key(key.strip(), f"-s {written}")
    if not text.strip():
        raise UserError(f"-s {written}: expected a value behind the =, got nothing; null stands for no value")
    try:
        value = text.strip() if _is_plain_text(section, name, text.strip()) else plain_yaml.read(text)
    except ValueError as error:
        raise UserError(f"-s {written}: {text!r} is not a value YAML can read ({error})") from None
    put(sections, section, name, value)
    return f"{section}.{name}", text.strip()


def option_of(written: str) -> str:
    """Today's name of the option that `section.key=value` sets; what is no such text comes back as it is."""
    key = written.partition("=")[0].strip()
    section, dot, _ = key.partition(".")
    return f"{section}.{FORMER_NAMES[key]}" if dot and key in FORMER_NAMES else key


def split_key(key: str, said: str) -> tuple[str, str]:
    """Section and today's name of `section.key`. said: what the user wrote, for the error."""
    section, dot, name = key.partition(".")
    if not (dot and name):
        raise UserError(f"{said}: expected section.key=value, e.g. -s train.epochs=5")
    if section not in Config.model_fields:
        raise UserError(f"{said}: {_unknown(section, list(Config.model_fields))}")
    return section, FORMER_NAMES.get(f"{section}.{name}", name)


def put(sections: dict[str, Any], section: str, name: str, value: Any) -> None:
    keys = sections.setdefault(section, {})
    if not isinstance(keys, dict):
        raise UserError(f"{section}: expected keys below it, got {keys!r:.60}")
    keys[name] = value


def _is_plain_text(section: str, name: str, text: str) -> bool:
    """Whether a value of -s is taken letter by letter: the option is of text, and neither null nor quotes stand there.

    So a folder may be named 2024, 1e3, [a] or `my data #2`, which YAML would read as something else.
    """
    options = Config.model_fields[section].annotation
    field = getattr(options, "model_fields", {}).get(name)
    return field is not None and _of_text(field.annotation) and text != "null" and text[0] not in "\"'"


def _of_text(annotation: Any) -> bool:
    """Whether an option's type is text, or text and none."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Annotated:
        return _of_text(parts[0])
    return annotation is str or (bool(parts) and all(map(_of_text, parts)))


def explain(detail: Any, source: str, written: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors. written: values of -s by their key, for 1e3 to be told as 1e3."""
    place = ".".join(str(part) for part in detail["loc"] if isinstance(part, str) and "[" not in part)
    if detail["type"] == "extra_forbidden":
        section = str(detail["loc"][0])
        in_section = len(detail["loc"]) > 1
        options = Config.model_fields[section].annotation if in_section else Config
        known = list(getattr(options, "model_fields", {}))
        prefix = f"{section}." if in_section else ""
        return f"{source}: {prefix}{_unknown(str(detail['loc'][-1]), known, prefix)}"
    if detail["type"] in ("model_type", "model_attributes_type"):
        return f"{source}: {place}: expected keys below it, got {detail['input']!r:.60}"
    if detail["type"] == "value_error":  # from a check of ours, which says what came
        return f"{source}: {place}: {detail['ctx']['error']}"
    given = detail["input"]
    hint = ""
    shown = written.get(place, repr(given)) if type(given) in (int, float) else repr(given)
    if detail["type"] in ("int_type", "float_type") and isinstance(given, str) and any(map(str.isdigit, given)):
        hint = "; write numbers in plain decimal digits, such as 30, 0.5 or 1e-3, without quotes"
    elif detail["type"] == "string_type" and given is not None:
        hint = "; put it in quotes"
    return f"{source}: {place}: {detail['msg']}, got {shown:.60}{hint}".replace("Input should be", "expected")


def _unknown(name: str, known: list[str], prefix: str = "") -> str:
    hint = did_you_mean(name, known, prefix=prefix) or f"; known: {', '.join(known)}"
    return f"{name} is not an option{hint}"
