"""The run folder, its checkpoints and its journal: what is on disk is whole, or is refused."""
