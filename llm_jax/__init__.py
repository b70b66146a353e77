"""llm_jax: the whole life of a large model, in JAX and Flax."""

__version__ = "0.1.0"
