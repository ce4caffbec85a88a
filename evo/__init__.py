"""What to try: genomes, operators, objectives and the search. numpy and DEAP, never torch."""
