"""`--auto-lr`: rates and the probe size, chosen by a few probing steps before a run."""
