"""Llama-type GGUF files, shown as the Hugging Face folder they were made of.

Quantized tensors are read as float32, one at a time. The format interleaves the two halves of a
head's query and key rows for its own rotary layout; here they are put back.
"""

import os
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers.gguf import field, open_gguf

# GGUF's names by Hugging Face's; {} is a block's number.
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class GgufFile:
    """The tensors of a GGUF file under Hugging Face's names; see `folder.Folder`.

    Attributes:
      path: the file.
      config: what the config.json of its folder would hold.

    Raises:
      ConfigError: no such file, a damaged one, or one of another architecture than llama.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._reader = open_gguf(self.path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise ConfigError(f"{path} is a GGUF of {architecture!r}: only 'llama' is known")
        self.config = self._config()
        self._names = self._named()

    def _field(self, name: str, default=None):
        return field(self._reader, name, default)

    def _config(self) -> dict:
        def need(name):
            value = self._field(f"llama.{name}")
            if value is None:
                raise ConfigError(f"{self.path} lacks the field llama.{name}: it is damaged")
            return value

        for name, only in {"rope.scaling.type": "none", "expert_count": 0}.items():
            if self._field(f"llama.{name}", only) != only:
                raise ConfigError(
                    f"{self.path}: llama.{name} is {self._field(f'llama.{name}')!r}, which cannot "
                    "be computed here: load the safetensors that it was made of"
                )
        heads, size = need("attention.head_count"), need("embedding_length")
        head_dim = self._field("llama.attention.key_length", size // heads)
        rotated = self._field("llama.rope.dimension_count", head_dim)
        if rotated != head_dim:
            raise ConfigError(f"{self.path} rotates {rotated} of {head_dim}: only all can be")
        return {
            "model_type": "llama",
            "num_hidden_layers": need("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._field("llama.attention.head_count_kv", heads),
            "head_dim": head_dim,
            "hidden_size": size,
            "intermediate_size": need("feed_forward_length"),
            "max_position_embeddings": need("context_length"),
            # A float32, whose decimal is meant.
            "rms_norm_eps": float(f"{need('attention.layer_norm_rms_epsilon'):.6g}"),
            "rope_theta": self._field("llama.rope.freq_base", 10_000.0),
            "vocab_size": int(self._tensor("token_embd.weight").shape[1]),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "hidden_act": "silu",
        }

    def _tensor(self, name: str):
        if name not in self._tensors:
            raise ConfigError(f"{self.path} lacks the tensor {name}: it is damaged")
        return self._tensors[name]

    def _named(self) -> dict[str, str]:
        names = {ours: theirs for ours, theirs in _OUTER.items() if theirs in self._tensors}
        for layer in range(self.config["num_hidden_layers"]):
            for ours, theirs in _BLOCK.items():
                for kind in ("weight", "bias"):
                    if f"blk.{layer}.{theirs}.{kind}" in self._tensors:
                        names[f"model.layers.{layer}.{ours}.{kind}"] = (
                            f"blk.{layer}.{theirs}.{kind}"
                        )
        # What no name stands for keeps its own, so that the loader lists it.
        return names | {name: name for name in self._tensors.keys() - set(names.values())}

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return tuple(int(size) for size in reversed(self._tensors[self._names[name]].shape))

    def read(self, name: str, start: int = 0, stop: int | None = None, axis: int = 0) -> np.ndarray:
        """Returns the tensor in float32, or its part from `start` to `stop` along `axis`."""
        from gguf.quants import dequantize

        tensor = self._tensors[self._names[name]]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        except NotImplementedError:
            raise ConfigError(
                f"{self.path}: {name} is quantized as {tensor.tensor_type.name}, which the package "
                "gguf cannot read: quantize it another way"
            ) from None
        values = values.reshape(self.shape(name))
        heads = {
            "q_proj": self.config["num_attention_heads"],
            "k_proj": self.config["num_key_value_heads"],
        }.get(name.split(".")[-2])
        if heads:
            values = values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2)
            values = values.reshape(self.shape(name))
        if stop is None:
            return values
        return values[(slice(None),) * axis + (slice(start, stop),)]
