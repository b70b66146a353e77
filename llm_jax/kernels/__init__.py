"""Accelerated functions, each beside its plain `jax.numpy` reference."""
