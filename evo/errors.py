"""Mistakes of the user's, told in one line. Everything else that is raised is a bug, and shows a traceback.

The errors that more than one room raises or catches stand here; others are defined below `UserError` where they arise.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # kinds of characters: controls, directions, surrogates, line ends


class UserError(ValueError):
    """A mistake of the user's, told in one line: what was expected, what came, what to do.

    The command line prints the line and ends with exit status 2. In a program it is a ValueError like any other.

    Example:
        >>> raise UserError("train.batch_size must be a positive number, got 0; set it to 1 or more")
        Traceback (most recent call last):
        ...
        evo.errors.UserError: train.batch_size must be a positive number, got 0; set it to 1 or more
    """


class BankError(UserError):
    """A pattern file that is missing or is not a sound bank, or banks that do not fit together."""


class LostProcessError(UserError):
    """Another of the processes that train together has ended."""


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1, prefix: str = "") -> str:
    """The hint for a wrong name, to be put after the sentence that refuses it.

    Upper and lower case count as the same letter.

    Args:
        name: what was given.
        known: the names that there are.
        most: how many names are suggested at most.
        prefix: what is written before each name that is suggested, such as the section of an option.

    Returns:
        `; did you mean 'NAME'?`, or an empty text where no known name is similar.

    Example:
        >>> did_you_mean("evolvd", ["plain", "evolved"])
        "; did you mean 'evolved'?"
        >>> did_you_mean("xyz", ["plain", "evolved"])
        ''
    """
    spelled = {one.casefold(): one for one in known}
    close = [repr(prefix + spelled[one]) for one in get_close_matches(name.casefold(), spelled, most)]
    if not close:
        return ""
    before_last = f"{', '.join(close[:-1])} or " if close[1:] else ""
    return f"; did you mean {before_last}{close[-1]}?"


def known_or_refused(names: Iterable[str], known: Sequence[str], kind: str, where: str) -> None:
    """Refuse names that are none of those known.

    Args:
        names: What was asked for.
        known: What there is.
        kind: What they are names of, for the error.
        where: What the error begins with, such as a file and its line.

    Raises:
        UserError: A name is none of `known`.
    """
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"{where}: there is no {kind} {name!r:.60}{hint} (choose from {', '.join(known)})")


def on_one_line(text: str) -> str:
    r"""A text with nothing in it that a terminal would obey, as what strangers' files say goes to terminals and pages.

    Args:
        text: any text.

    Returns:
        The text, of the same length, with `?` for controls, directions of reading, surrogates and line ends.

    Example:
        >>> on_one_line("two\nlines")
        'two?lines'
    """
    return "".join("?" if unicodedata.category(character) in OBEYED else character for character in text)
