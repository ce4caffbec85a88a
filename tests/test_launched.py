"""Torchrun's variables: all of them, or none; what is there by halves is one line before anything is loaded."""

import pytest

from evo.errors import UserError
from training.launched import check_launched, launched

WHOLE = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}


def environment(monkeypatch, values):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def without(*names):
    return {name: value for name, value in WHOLE.items() if name not in names}


@pytest.mark.parametrize(
    "values",
    [{}, WHOLE, without("LOCAL_WORLD_SIZE"), {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "", "RANK": ""}, {"LOCAL_RANK": "0"}],
)
def test_one_process_and_several_whole_ones_are_taken(monkeypatch, values):
    environment(monkeypatch, values)
    check_launched()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set in the environment, and RANK, MASTER_ADDR, MASTER_PORT, LOCAL_RANK are not"),
        ({"RANK": "1"}, "RANK=1 is set in the environment, and WORLD_SIZE is not"),
        ({"RANK": "0"}, "RANK=0 is set in the environment, and WORLD_SIZE is not"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 is set in the environment, and WORLD_SIZE is not"),
        (without("RANK"), "and RANK is not"),
        (without("MASTER_ADDR"), "and MASTER_ADDR is not"),
        ({**WHOLE, "MASTER_PORT": ""}, "and MASTER_PORT is not"),
        (without("LOCAL_RANK"), "where each machine has one process, set LOCAL_RANK=0"),
        ({**WHOLE, "RANK": "2"}, "expected RANK from 0 to 1"),
        ({**WHOLE, "LOCAL_RANK": "2"}, "expected LOCAL_RANK from 0 to 1"),
        ({**WHOLE, "RANK": "one"}, "RANK='one' in the environment: expected a whole number"),
        ({**WHOLE, "WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0'"),
        ({**WHOLE, "WORLD_SIZE": "-2"}, "WORLD_SIZE='-2'"),
        ({"WORLD_SIZE": "0"}, "expected 1 process or more"),
        ({**WHOLE, "MASTER_PORT": "70000"}, "expected a port"),
    ],
)  # fmt: skip
def test_what_is_set_by_halves_is_refused_in_one_line(cli, monkeypatch, values, words):
    environment(monkeypatch, values)
    status, _, error = cli("train", "digits", "-s", "train.epochs=1")
    assert status == 2 and words in error and len(error.splitlines()) == 1 and error.startswith("run: ")


def test_a_library_call_asks_for_the_same_but_for_the_place_on_the_machine(monkeypatch):
    import torch

    from training.distributed import start

    environment(monkeypatch, {"WORLD_SIZE": "3"})
    with pytest.raises(UserError, match="RANK, MASTER_ADDR, MASTER_PORT are not"):
        start(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(UserError, match="LOCAL_RANK='x'"):
        launched("LOCAL_RANK", 0)
