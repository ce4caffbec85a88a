"""What we run: the command line, recipes, ablations and benchmarks."""
