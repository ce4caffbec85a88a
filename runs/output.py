"""Standard output and errors as the command line uses them: whatever a terminal can show, and nothing that steers it."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

# Control characters but for line ends and tabs, marks that turn the direction of writing, and halves of characters, which
# stand for the bytes of a file name that is no UTF-8.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OVERWRITES = re.compile("\r(\x1b\\[2?K)?")  # how a line of progress begins
SPELT = {"±": "+/-", "→": "->", "–": "-", "…": "...", "×": "x", "·": "-"}
CLOSED = 141  # exit status of a program whose reader has gone, as a shell has it


class ClosedOutputError(Exception):
    """Nobody reads standard output any more, as after `| head -1`. No OSError: typer would end the process by itself."""


class Output:
    """A text stream that takes any text: what the stream's encoding lacks is spelt in ASCII, and what would steer a
    terminal is written as an escape, such as \\x1b.

    silent: for messages beside the work. What cannot be written is lost without an error, and a line may overwrite the
    last one, as progress does.
    """

    def __init__(self, stream: Any, silent: bool = False) -> None:
        self.stream = stream
        self.silent = silent

    def write(self, text: str) -> int:
        begins = OVERWRITES.match(text) if self.silent else None
        start = begins.end() if begins else 0
        shown = text[:start] + STEERING.sub(lambda found: _escaped(found[0]), text[start:])
        with self._explained():
            self.stream.write(encodable(shown, getattr(self.stream, "encoding", None)))
        return len(text)

    def flush(self) -> None:
        with self._explained():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self.silent:
                return
            if isinstance(error, BrokenPipeError):
                raise ClosedOutputError(*error.args) from None
            error.filename = error.filename or "standard output"
            raise


@contextmanager
def plain_output() -> Iterator[None]:
    """Let everything that is printed within pass through an Output; what is printed last is written out before it ends.

    Raises ClosedOutputError, or the OSError of a full disk, where standard output does not take it.
    """
    streams = [stream if stream is not None else open(os.devnull, "w") for stream in (sys.stdout, sys.stderr)]  # noqa: SIM115
    with redirect_stderr(Output(streams[1], silent=True)), redirect_stdout(Output(streams[0])):
        try:
            yield
        except BaseException:
            try:
                sys.stdout.flush()
            except OSError:  # what is under way is what the caller is to hear of
                give_up_output()
            raise
        sys.stdout.flush()


def give_up_output() -> None:
    """Let standard output lead nowhere, so that what is left in it raises no second error when the interpreter ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def encodable(text: str, encoding: str | None) -> str:
    """The text with what an encoding lacks spelt in ASCII."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        assert encoding is not None
        return text.encode(encoding, "spelt").decode(encoding)
    except LookupError:  # a stream that is no file may say anything
        pass
    return text


def _spelt(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(SPELT.get(character) or _escaped(character) for character in characters), error.end


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if character > "\x7f" else repr(character)[1:-1]


codecs.register_error("spelt", _spelt)
