"""One word for one state: the commands, the report, the live page and the JSON say what analysis/states.py lists."""

import fcntl
import json
import re

import pytest

from analysis.live_page import BY_WEIGHT, LivePage
from analysis.run_folder import RunFolder
from analysis.sections.caveats import caveats_of
from analysis.sections.head import head
from analysis.states import SYNONYMS, State, state_named
from tests.test_listing import END, FAILED, write_run

LAST = {
    State.RUNNING: None,
    State.DONE: END,
    State.STOPPED: {"event": "stopped", "step": 9},
    State.FAILED: FAILED,
    State.KILLED: None,
}


@pytest.fixture(params=LAST, ids=str)
def run(request, out):
    """A run of each state that is not for want of files, and the state."""
    folder = write_run(out / "a", last=LAST[request.param], epochs=4 if request.param is State.DONE else 2)
    with open(folder / ".lock", "a") as file:
        if request.param is State.RUNNING:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield RunFolder(folder), request.param


def test_every_place_has_the_same_word_for_a_state(run, cli):
    found, state = run
    (listed,) = json.loads(cli("list", "--json")[1])
    assert listed["state"] == json.loads(cli("show", "a", "--json")[1])["state"] == found.state == state
    assert cli("list")[1].splitlines()[1].split()[1] == state
    assert re.search(rf"^state +{state}: {state.meaning}", cli("show", "a")[1], re.MULTILINE)
    badge = re.search(r"<span class='state (\w+)'>.*?</span> (.*?)</span>", head([found]))
    assert badge.groups() == (state, state)
    live = LivePage(["a"], {})
    live.renew(())
    assert live.status.state == state and live.status.text.startswith(f"{state.capitalize()}: {state.meaning}")
    titles = {caveat.title for caveat in caveats_of([found])} & {other.capitalize() for other in State}
    assert titles == ({state.capitalize()} if state is not State.DONE else set())


def test_every_state_is_accepted_by_list_and_what_reports_once_called_it_too(run, cli):
    _, state = run
    names = [state, *(word for word, meant in SYNONYMS.items() if meant is state)]
    for name in (*names, state.upper(), f"waiting, {state}"):
        status, text, _ = cli("list", "--json", "--state", name)
        assert status == 0 and [row["state"] for row in json.loads(text)] == [state]
    others = ",".join(other for other in State if other is not state)
    assert json.loads(cli("list", "--json", "--state", others)[1]) == []


def test_an_unknown_state_is_refused_with_the_list(out, cli):
    write_run(out / "a")
    status, _, error = cli("list", "--state", "done,cutoff")
    assert status == 2
    assert error == f"run: --state: expected one of {', '.join(State)}, got 'cutoff'\n"
    assert ", ".join(State) in " ".join(cli("list", "--help")[1].split())


def test_every_state_has_a_meaning_and_a_place_on_the_page_of_several_runs():
    assert all(state.meaning and state.sign and state_named(state) is state for state in State)
    assert set(BY_WEIGHT) == set(State)
