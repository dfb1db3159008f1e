"""Scores of runs, models and saved adapters on the rows of a task or a mixture: what `zofo eval` and `zofo.evaluate` do."""
