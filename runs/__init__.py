"""What we run: the command line, recipes, ablations and benchmarks."""

import os

# Threads of OpenMP, which PyTorch computes with, sleep while they wait for each other. By default they spin, and where
# other programs want the cores too, each spins through the time in which the one it waits for could compute: 44 steps
# on digits took ten times as long. Read when PyTorch is loaded, so set before; the processes started from here inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LOST = 3  # exit status of one of several processes whose fellow has ended
