"""Grids of runs: methods x tasks x seeds x rates under one budget, chosen on validation, tested once."""
