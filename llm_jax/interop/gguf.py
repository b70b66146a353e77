"""Llama-type GGUF files, shown as the Hugging Face folder they were made of.

Quantized tensors are read as float32, one at a time. The format interleaves the two halves of a
head's query and key rows for its own rotary layout; here they are put back.
"""

import os
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer, byte_level

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
# Which pre-tokenizers cut numbers into digits before GPT-2's pattern is applied.
_SINGLE_DIGITS = {"smollm": True, "gpt-2": False, "default": False}


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
        self._reader = _reader(self.path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise ConfigError(f"{path} is a GGUF of {architecture!r}: only 'llama' is known")
        self.config = self._config()
        self._names = self._named()

    def _field(self, name: str, default=None):
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

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
            "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
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

    def tokenizer(self) -> PretrainedTokenizer:
        """Returns the tokenizer in the file, with its chat template.

        Raises:
          ConfigError: a kind other than byte-level BPE.
        """
        kind, pre = (
            self._field("tokenizer.ggml.model"),
            self._field("tokenizer.ggml.pre", "default"),
        )
        if kind != "gpt2" or pre not in _SINGLE_DIGITS:
            raise ConfigError(f"{self.path} has a tokenizer {kind!r}/{pre!r}, which is not known")
        tokens = self._field("tokenizer.ggml.tokens")
        merges = [tuple(pair.split(" ")) for pair in self._field("tokenizer.ggml.merges")]
        vocab = {token: number for number, token in enumerate(tokens)}
        backend = byte_level(vocab, merges, single_digits=_SINGLE_DIGITS[pre])
        control = 3
        types = self._field("tokenizer.ggml.token_type", [])
        backend.add_special_tokens([t for t, kind in zip(tokens, types) if kind == control])
        special = {}
        for role, name in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
            number = self._field(f"tokenizer.ggml.{name}_token_id")
            if number is not None:
                special[role] = tokens[number]
        return PretrainedTokenizer(backend, special, self._field("tokenizer.chat_template"))


def _reader(path: Path):
    try:
        import gguf
    except ImportError:
        raise ConfigError("GGUF files need the package gguf: pip install llm_jax[gguf]") from None
    if not path.is_file():
        raise ConfigError(f"{path} is no file: give a *.gguf")
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # its own errors have no common class
        raise ConfigError(f"{path} is damaged: {error}; fetch it anew") from error
