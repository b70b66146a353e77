"""Flax Linen parts that the model families share."""
