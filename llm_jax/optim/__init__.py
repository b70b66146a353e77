"""The optimizer room: schedules, optax chains from a config, tables of (pattern, value).

It knows no model. Parameters are nested dicts, and their logical axis names say which axes stack
independent layers and which are the rows and columns of a matrix.
"""

from llm_jax.optim.averages import moved, newest_share
from llm_jax.optim.chain import build
from llm_jax.optim.config import OPTIMIZERS, SCHEDULES, OptimConfig
from llm_jax.optim.gradual import gradually
from llm_jax.optim.schedules import schedule
from llm_jax.optim.state import state_axes
