"""What the CPU has: how many cores a process may use, and arithmetic that is not emulated."""

from __future__ import annotations

import os
from pathlib import Path

# By the line that lists a CPU's features, on x86 and on ARM: what PyTorch's convolutions (oneDNN) in bfloat16 ask for.
NEEDED_FOR_BFLOAT16 = {"flags": {"avx512bw", "avx512vl", "avx512dq"}, "Features": {"bf16"}}

EMULATED = "this CPU emulates bfloat16, which takes about ten times the time of float32"


def usable_cores() -> int:
    """Cores this process may use: a cluster's job often has a part of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def emulates_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU is known to compute bfloat16 slowly: without AVX-512 on x86, or bf16 on ARM.

    Read from what Linux says, without importing torch; elsewhere nothing is known, and False returned.
    """
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    for name, _, value in (line.partition(":") for line in lines):
        if name.strip() in NEEDED_FOR_BFLOAT16:
            return not NEEDED_FOR_BFLOAT16[name.strip()] <= set(value.split())
    return False
