"""What the CPU has: how many cores a process may use, and arithmetic that is not emulated."""

from __future__ import annotations

import os
from pathlib import Path

# By the line that lists a CPU's features, on x86 and on ARM: what PyTorch's convolutions (oneDNN) in bfloat16 ask for.
NEEDED_FOR_BFLOAT16 = {"flags": {"avx512bw", "avx512vl", "avx512dq"}, "Features": {"bf16"}}

UNLIMITED = 1e6  # cores

EMULATED = "this CPU emulates bfloat16, which takes about ten times the time of float32"


CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Cores this process may use: a cluster's job or a container often has a part of the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(cpu_quota(cgroups))))


def cpu_quota(cgroups: Path = CGROUPS) -> float:
    """How many cores' time a container may spend (Linux control groups, version 2 or 1); many where nothing says so."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return UNLIMITED
    try:
        share = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return UNLIMITED
    return share if share > 0 else UNLIMITED  # -1 stands for no limit


def emulates_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU is known to compute bfloat16 slowly: without AVX-512 on x86, or bf16 on ARM.

    Read from what Linux says, without importing torch; elsewhere nothing is known, and False returned.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for name, _, value in (line.partition(":") for line in lines):
        if name.strip() in NEEDED_FOR_BFLOAT16:
            return not NEEDED_FOR_BFLOAT16[name.strip()] <= set(value.split())
    return False
