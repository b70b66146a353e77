"""What a stack of layers keeps for its backward pass, and where."""

import re
import types

import jax
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.models import Execution
from llm_jax.testing import random_batch, tiny_model


def kept_by(remat):
    """Returns where arrays [layers, B, T, D] lie: "" for the device."""
    model, tokens = tiny_model(Execution(remat=remat), num_layers=3), random_batch()["tokens"]
    total = jax.grad(lambda params: model.hidden(params, tokens)[0].sum())
    program = str(jax.make_jaxpr(total)(model.abstract_params))
    return set(re.findall(r"f32(?:<(\w+)>)?\[3,8,16,32\]", program))


def test_offload_keeps_the_blocks_inputs_in_the_hosts_memory_only():
    assert kept_by("offload") == {"host"}
    assert kept_by("full") == {""}


def test_a_device_without_its_hosts_memory_is_refused(monkeypatch):
    memories = [types.SimpleNamespace(kind="device")]
    device = types.SimpleNamespace(device_kind="toy", addressable_memories=lambda: memories)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    with pytest.raises(ConfigError, match="toy has no pinned_host memory but device: choose 'full"):
        kept_by("offload")
