"""How a run may stand: the words that every command, page and file uses, with what each means."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """A run's state. `meaning` says it in a few words, `sign` stands beside it where colour must not tell alone."""

    meaning: str
    sign: str

    def __new__(cls, word: str, sign: str, meaning: str) -> State:
        state = str.__new__(cls, word)
        state._value_ = word
        state.sign = sign
        state.meaning = meaning
        return state

    WAITING = "waiting", "…", "there is no such run yet"
    RUNNING = "running", "▶", "a process is writing it"
    DONE = "done", "✓", "it has ended as planned"
    STOPPED = "stopped", "■", "it was stopped on request before its end"
    FAILED = "failed", "✗", "an error ended it"
    KILLED = "killed", "✗", "it has not ended, and no process is writing it"
    DAMAGED = "damaged", "✗", "its files cannot be read"


SYNONYMS = {"finished": State.DONE, "cut off": State.KILLED, "cut-off": State.KILLED}  # as older reports had them


def state_of_event(last: str | None) -> State:
    """Of a run that no process is writing, by the last event of its log; None where it has none yet."""
    return {"end": State.DONE, "failed": State.FAILED, "stopped": State.STOPPED}.get(str(last), State.KILLED)


def state_named(word: str) -> State:
    """The state of a word, or of what older versions called it. Raises ValueError with the list of states."""
    wanted = word.strip().lower()
    if wanted in SYNONYMS:
        return SYNONYMS[wanted]
    try:
        return next(state for state in State if state == wanted)
    except StopIteration:
        raise ValueError(f"expected one of {', '.join(State)}, got {word!r}") from None
