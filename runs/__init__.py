"""What we run: the command line, recipes, ablations and benchmarks."""

LOST = 3  # exit status of one of several processes whose fellow has ended
