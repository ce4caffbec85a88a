"""Numbers are plain decimals wherever a person writes one; what YAML 1.1 or Python would read otherwise is refused."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evo.errors import UserError
from runs.ablation.file import read_ablation
from training import plain_yaml
from training.config import load_config, make_config

ODD = [
    "1:30",
    "1_000",
    "0x10",
    "0o17",
    "010",
    "0b11",
    "+5",
    "٣",
    "1٣",
    "５",
    "2026-01-01",
    ".inf",
    "-.inf",
    ".nan",
    "1,5",
]
ODD += ["1 000", "1:30.5", "--1", "1e", "0x1p3", "yes", "on", "~", "", "!!int 0x10", "!!int '5'", "9" * 40]
WHOLE = "write numbers in plain decimal digits"


def refused(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("key", ["train.epochs", "data.subset", "train.lr", "train.clip", "train.step_at"])
def test_an_option_takes_plain_decimals_alone(key, text):
    assert text in refused(lambda: make_config({}, [f"{key}={text}"]))


@pytest.mark.parametrize("text", [text for text in ODD if text not in ("", "1,5")])
def test_so_does_a_recipe_and_an_ablation(tmp_path, text):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"train:\n  epochs: {text}\n", encoding="utf-8")
    assert refused(lambda: load_config(str(recipe)))
    for part in (
        f"seeds: {text}\nvariants: {{a: {{}}}}",
        f"seeds: [0, {text}]\nvariants: {{a: {{}}}}",
        f"seeds: 1\nvariants: {{a: {{train.epochs: {text}}}}}",
        f"seeds: 1\ncommon: {{train.epochs: {text}}}\nvariants: {{a: {{}}}}",
        f"seeds: 1\ngrid: {{train.epochs: [1, {text}]}}",
        f"seeds: 1\nby_seed: {{train.epochs: [{text}]}}\nvariants: {{a: {{}}}}",
        f"seeds: 1\nresources: {{cpus: {text}}}\nvariants: {{a: {{}}}}",
    ):
        file = tmp_path / "question.yaml"
        file.write_text(f"recipe: digits\n{part}\n", encoding="utf-8")
        assert refused(lambda file=file: read_ablation(file))


@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("--workers", ("ablate", "none")),
        ("--devices", ("train", "digits")),
        ("--seeds", ("transfer", "none")),
        ("--size", ("prepare", "none")),
        ("--top", ("patterns", "none")),
        ("--port", ("watch", "none")),
        ("--min-weight", ("patterns", "none")),
        ("--max-unreadable", ("prepare", "none")),
    ],
)
@pytest.mark.parametrize("text", ["1:30", "1_000", "0x10", "010", "+5", "٣", "nan", "inf", " 5", ""])
def test_so_does_the_command_line(cli, option, command, text):
    status, _, error = cli(*command, f"{option}={text}")
    assert status == 2 and option in error and repr(text) in error and len(error.splitlines()) == 1


def test_the_line_says_what_was_written():
    assert "got 1e3" in refused(lambda: make_config({}, ["train.epochs=1e3"]))
    assert "got 5." in refused(lambda: make_config({}, ["train.epochs=5."]))
    assert f"got '1:30'; {WHOLE}" in refused(lambda: make_config({}, ["train.epochs=1:30"]))
    assert f"got '1:30'; {WHOLE}" in refused(lambda: make_config({"train": {"epochs": "1:30"}}))


@given(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False))
def test_plain_numbers_are_read_as_they_are_written(whole, real):
    assert plain_yaml.read(str(whole)) == whole == plain_yaml.whole_number(str(whole))
    assert plain_yaml.read(repr(real)) == real == plain_yaml.number(repr(real))


@given(st.text(alphabet="0123456789+-_.:xob eE٣", min_size=1, max_size=8))
def test_no_other_text_becomes_a_number(text):
    try:
        value = plain_yaml.read(text)
    except ValueError:
        return
    if type(value) is int:
        assert str(abs(value)) == text.strip().removeprefix("-")
    elif isinstance(value, float):
        assert (
            text.isascii()
            and value == float(text)
            and not set(text) & set("_:xob+") - set("+" if "e" in text.lower() else "")
        )


@pytest.mark.parametrize(
    "name", ["2024", "007", "1e3", "1.50", "1_0", "0x10", "no", "true", "1:30", "a #b", "[x]", "{y}", "@z", "~"]
)
def test_an_option_of_text_takes_it_letter_by_letter(name):
    assert make_config({}, [f"data.root={name}"]).data.root == name
    assert make_config({}, [f"mix.bank= {name} "]).mix.bank == name


def test_quotes_and_null_keep_their_meaning():
    assert make_config({}, ['data.root="null"']).data.root == "null"
    assert make_config({}, ["data.root='a b'"]).data.root == "a b"
    assert make_config({"data": {"root": "x"}}, ["data.root=null"]).data.root is None
    assert "; put it in quotes" in refused(lambda: make_config({"data": {"root": 2024}}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a: 1, a: 2}", "the key 'a' stands twice"),
        ("{1: 1, '1': 2}", "the key '1' stands twice"),
        ("a: {b: 1, b: 1}", "the key 'b' stands twice"),
        ("a: 1\nc: 3\na: 2", "line 1: the key 'a' stands twice"),
        ("!!set {a}", "without tags"),
        ("!x 1", "without tags"),
        ("&x [*x]", "*x stands within what it stands for"),
        ("? [1]\n: 2", "expected a name as the key"),
    ],
)
def test_yaml_that_could_mean_two_things_is_refused(text, words):
    with pytest.raises(ValueError, match="line 1") as caught:
        plain_yaml.read(text)
    assert words in str(caught.value)


def test_keys_are_text_as_they_are_written():
    assert plain_yaml.read("{1e3: 1, 010: 2, yes: 3, null: 4}") == {"1e3": 1, "010": 2, "yes": 3, "null": 4}
    assert plain_yaml.read("a: &a {x: 1, y: 1}\nb:\n  <<: *a\n  y: 2") == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}


def test_other_readers_of_yaml_are_left_alone():
    assert yaml.safe_load("[1:30, 010]") == [90, 8]
