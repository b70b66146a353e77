"""Text out of a model: samplers, and an engine with a key-value cache."""

from llm_jax.generation.engine import Engine, Generation, Timing, generate
from llm_jax.generation.samplers import SamplingOptions
from llm_jax.generation.speculative import Draft
