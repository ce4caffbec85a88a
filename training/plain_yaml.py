"""YAML and numbers as people mean them: 1e-3 is a number, `no` is a word, and what could mean two things is refused.

YAML 1.1, which PyYAML reads, takes 1:30 for 90, 010 for 8, 1_000 for 1000 and `no` for False. Here an integer is written
in plain decimal digits, another number as 0.5 or 1e-3. Anything else is text, which an option that wants a number
refuses and quotes. Keys are text as they are written, and none stands twice.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# [0-9], for \d takes the digits of every script. Thirty of them are beyond every option's bounds.
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,29})")
DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?")


def read(text: str) -> Any:
    """The value that a YAML text stands for. Raises ValueError in one line, which says where and what came."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("not valid YAML: it is nested too deeply") from None


def whole_number(text: str) -> int:
    """The integer that plain decimal digits stand for. Raises ValueError, which says what came."""
    if not INTEGER.fullmatch(text):
        raise ValueError(f"expected a whole number in plain decimal digits, such as 30, got {text!r:.60}")
    return int(text)


def number(text: str) -> float:
    """The number that 3, 0.5 or 1e-3 stands for. Raises ValueError, which says what came."""
    if not (INTEGER.fullmatch(text) or DECIMAL.fullmatch(text)):
        raise ValueError(f"expected a number such as 0.5 or 1e-3, got {text!r:.60}")
    return float(text)


class _Refused(yaml.YAMLError):
    """What YAML allows and a recipe does not."""

    def __init__(self, where: Any, problem: str) -> None:
        super().__init__(f"line {where.start_mark.line + 1}: {problem}")


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars as this module says; takes no tags, which would bring the other readings back."""

    # Both are the class's own: PyYAML would change those of SafeLoader.
    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag, anchor = getattr(event, "tag", None), getattr(event, "anchor", None)
        if tag is not None:
            raise _Refused(event, f"expected plain values without tags, got {tag!r:.60}")
        around = self.__dict__.setdefault("_around", [])  # anchors of the nodes that this one lies in
        if isinstance(event, yaml.AliasEvent) and anchor in around:
            raise _Refused(event, f"*{anchor} stands within what it stands for")
        around.append(anchor)
        node: yaml.Node | None = super().compose_node(parent, index)
        around.pop()
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [_key(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise _Refused(node, f"the key {key!r} stands twice")
        self.flatten_mapping(node)  # puts what << names before the mapping's own
        return {_key(key): self.construct_object(value, deep=True) for key, value in node.value}


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _Refused(node, "expected a name as the key, got a list or a mapping")
    return str(node.value)


def _tilde(loader: _Loader, node: yaml.Node) -> None:
    raise _Refused(node, "expected null for no value, or a path in quotes, got ~")


def _set_up() -> None:
    kind = "tag:yaml.org,2002:"
    for tag, pattern, first in (
        (f"{kind}null", "(?:null)?", ["n", ""]),
        (f"{kind}bool", "true|false|True|False", list("tfTF")),
        (f"{kind}int", INTEGER.pattern, list("-0123456789")),
        (f"{kind}float", DECIMAL.pattern, list("-0123456789.")),
        (f"{kind}merge", "<<", ["<"]),
        ("!tilde", "~", ["~"]),
    ):
        _Loader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), first)
    for name in ("null", "bool", "str", "seq", "map"):
        _Loader.add_constructor(kind + name, yaml.SafeLoader.yaml_constructors[kind + name])
    _Loader.add_constructor(f"{kind}int", lambda _, node: int(node.value))
    _Loader.add_constructor(f"{kind}float", lambda _, node: float(node.value))
    _Loader.add_constructor("!tilde", _tilde)


_set_up()
