"""Adapters through peft: two named copies, p and s, on any causal model that peft supports."""
