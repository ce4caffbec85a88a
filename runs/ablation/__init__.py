"""`./run ablate`: variants x seeds of a recipe, run as trials and compared in tables.

file.py reads the YAML file, trials.py knows one trial, schedule.py says which runs when, engines/ run them, published.py
keeps finished results with the code, tables.py writes the tables, and command.py puts these together.
"""
