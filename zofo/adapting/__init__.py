"""Adapting: a fresh small adapter on a frozen base, from a few examples, in a few steps."""
