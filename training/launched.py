"""What torchrun tells each of the processes it starts, in environment variables. No torch."""

from __future__ import annotations

import os

from evo.errors import UserError

NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # by each of several processes
ALONE = "unset them to train in one process: unset WORLD_SIZE RANK LOCAL_RANK"
TOGETHER = "start several processes with --devices N, or with torchrun, which sets all of them"


def launched(name: str, otherwise: int) -> int:
    """A variable of NUMBERS as a number; `otherwise` where it is not set. Raises UserError where it is no number."""
    text = os.environ.get(name, "").strip()
    if not text:
        return otherwise
    if not text.isascii() or not text.isdecimal():
        raise UserError(f"{name}={text!r:.60} in the environment: expected a whole number from 0 on; {ALONE}")
    return int(text)


def check_launched(needed: tuple[str, ...] = (*NEEDED, "LOCAL_RANK")) -> None:
    """Raise UserError where variables of several processes are there by halves, or contradict one another.

    needed: what has to be set where there are several processes.
    """
    values = {name: launched(name, -1) for name in NUMBERS}
    size, rank = values["WORLD_SIZE"], values["RANK"]
    if size == 0:
        raise UserError(f"WORLD_SIZE=0 in the environment: expected 1 process or more; {ALONE}")
    for name, value in (("RANK", rank), ("LOCAL_RANK", values["LOCAL_RANK"] or -1)):  # 0 says no more than nothing
        if value >= 0 and size < 0:
            raise UserError(f"{name}={value} is set in the environment, and WORLD_SIZE is not; {ALONE}, or {TOGETHER}")
    missing = [name for name in needed if not os.environ.get(name, "").strip()]
    if size > 1 and missing:
        local = "; where each machine has one process, set LOCAL_RANK=0" if missing == ["LOCAL_RANK"] else ""
        raise UserError(
            f"WORLD_SIZE={size} is set in the environment, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not; {ALONE}, or {TOGETHER}{local}"
        )
    for one, all_of_them in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if 0 <= values[all_of_them] <= values[one]:
            raise UserError(
                f"{one}={values[one]} and {all_of_them}={values[all_of_them]} in the environment: expected {one} from 0 to "
                f"{values[all_of_them] - 1}; {ALONE}, or {TOGETHER}"
            )
    if values["MASTER_PORT"] > 65535 and size > 1:
        raise UserError(f"MASTER_PORT={values['MASTER_PORT']} in the environment: expected a port from 1 to 65535")
