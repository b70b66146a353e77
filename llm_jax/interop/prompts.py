"""Prompts and prefixes as `peft` keeps them: one matrix, a row for each virtual token."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.models import DECODERS
from llm_jax.peft import Prefix, Prompt

MATRIX = "prompt_embeddings"
KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


def kept(config: Any, adapters: Any, method: Prompt | Prefix) -> tuple[dict, dict]:
    """Returns the keys of adapter_config.json, and the tensors.

    Args:
      config: of a family of `llm_jax.models.DECODERS`.
      adapters: `params["adapters"]`.
      method: `Prompt` or `Prefix`.

    Raises:
      ConfigError: another family, whose prefixes `peft` hands over in ways of their own.
    """
    _check(config)
    if isinstance(method, Prefix):
        own = adapters["layers"]["attention"]
        pairs = np.stack([own["prefix_key"], own["prefix_value"]], axis=1)  # [L, 2, n, K, H]
        rows = np.moveaxis(pairs, 2, 0).reshape(method.tokens, -1)
        kind, more = "PREFIX_TUNING", {"prefix_projection": False, "encoder_hidden_size": None}
        token_size = config.kv_heads * config.size_of_head
    else:
        rows = np.asarray(adapters["embedding"]["prompt"])
        kind, more, token_size = "PROMPT_TUNING", {"prompt_tuning_init": "RANDOM"}, rows.shape[1]
    told = {
        "peft_type": kind, "task_type": "CAUSAL_LM", "inference_mode": True,
        "num_virtual_tokens": method.tokens, "token_dim": token_size,
        "num_transformer_submodules": 1, "num_attention_heads": config.kv_heads,
        "num_layers": config.num_layers,
    }  # fmt: skip
    return told | more, {MATRIX: np.ascontiguousarray(rows, np.float32)}


def found(config: Any, given: dict, tensors: dict, path) -> tuple[tuple, Any]:
    """Returns `(methods, adapters)` of the keys and tensors that `peft` wrote into `path`.

    A prompt that a network made (its P_TUNING) is one of plain vectors from here on.

    Raises:
      ConfigError: another family, or a matrix of another shape.
    """
    _check(config)
    if sorted(tensors) != [MATRIX]:
        raise ConfigError(f"{path} has the tensors {sorted(tensors)}, not {MATRIX} alone")
    rows = tensors[MATRIX]
    count, layers = rows.shape[0], config.num_layers
    prefix = given["peft_type"] == "PREFIX_TUNING"
    heads, size = config.kv_heads, config.size_of_head
    wanted = (count, layers * 2 * heads * size if prefix else config.hidden_size)
    if rows.shape != wanted:
        raise ConfigError(
            f"{path}: {MATRIX} is of shape {rows.shape}, and this model needs {wanted}"
        )
    if not prefix:
        return (Prompt(tokens=count),), {"embedding": {"prompt": jnp.asarray(rows)}}
    pairs = jnp.moveaxis(jnp.asarray(rows).reshape(count, layers, 2, heads, size), 0, 2)
    own = {"prefix_key": pairs[:, 0], "prefix_value": pairs[:, 1]}
    return (Prefix(tokens=count),), {"layers": {"attention": own}}


def _check(config) -> None:
    if config.family not in DECODERS:
        raise ConfigError(
            f"prompts and prefixes of a {config.family} have no form in peft here: this takes "
            f"{', '.join(DECODERS)}"
        )
