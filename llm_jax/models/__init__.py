"""Model families, one file each; a `Model` is a bundle of pure functions over plain pytrees.

Flax stays below this line: parameters come and go as nested dicts of arrays.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import configuration
from llm_jax.configuration import ConfigError
from llm_jax.kernels import attention, grouped
from llm_jax.layers import partition
from llm_jax.layers.embed import Table
from llm_jax.layers.stack import Scan
from llm_jax.models import bart, bert, clip, gpt2, llama, mixtral, seq2seq, t5, vit, whisper
from llm_jax.models.flops import Flops
from llm_jax.models.heads import Head
from llm_jax.parallel.sharding import axis_size, constrain, platform

FAMILIES = {
    "bert": bert,
    "clip": clip,
    "gpt2": gpt2,
    "llama": llama,
    "mixtral": mixtral,
    "t5": t5,
    "vit": vit,
    "bart": bart,
    "whisper": whisper,
    "seq2seq": seq2seq,
}

# Those that predict the next token by `Model.hidden` and `Model.logits`.
DECODERS = ("gpt2", "llama", "mixtral")

# Those that write a target for a source text.
TEXT_TO_TEXT = ("t5", "bart", "seq2seq")


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model is computed; no choice here changes its result beyond rounding.

    What does (a window, a sparse or linear pattern, ALiBi) is the model's own configuration.

    Attributes:
      attention: a name of `llm_jax.kernels.attention.IMPLEMENTATIONS`, or "auto".
      remat: what the forward pass keeps, a name of `llm_jax.layers.stack.REMAT`.
      unroll: layers per iteration of the scan over layers; 0 means all.
      microbatches: that a batch passes the stages of `mesh.pipe` in; 0: as many as stages.
      pipeline_rounds: that each of them makes through the stages; more leave less time empty.
      loss_chunk: tokens whose logits a device holds at once.
    """

    attention: str = "auto"
    remat: str = "none"
    unroll: int = 1
    microbatches: int = 0
    pipeline_rounds: int = 1
    loss_chunk: int = 512

    def __post_init__(self):
        attention.check(self.attention)
        _ = self.scan  # checks its parts
        if self.loss_chunk < 1:
            raise ConfigError(f"execution.loss_chunk is {self.loss_chunk}: give at least 1 token")

    @property
    def scan(self) -> Scan:
        """How layers are run; `ConfigError` where a part of it is wrong."""
        return Scan(self.remat, self.unroll, self.microbatches, self.pipeline_rounds)


def parse_config(mapping: Mapping):
    """Returns the family's Config of `mapping`, whose key `family` names one of `FAMILIES`.

    Raises:
      ConfigError: an unknown family or key, a wrong type, an impossible combination.
    """
    name = mapping.get("family", "gpt2")
    if name not in FAMILIES:
        raise ConfigError(f"model.family is {name!r}: choose one of {', '.join(FAMILIES)}")
    return configuration.parse(FAMILIES[name].Config, mapping, "model")


def require_decoder(config) -> None:
    """Raises `ConfigError` if the family of `config` is none of `DECODERS`."""
    if config.family not in DECODERS:
        raise ConfigError(
            f"model.family {config.family!r} does not predict next tokens one by one: this takes "
            f"{', '.join(DECODERS)}"
        )


def build(
    config,
    execution: Execution = Execution(),
    dtype=jnp.float32,
    quantization: str | None = None,
) -> "Model":
    """Returns the `Model` of a family's `config`; it computes as `dtype` and `quantization` say."""
    return Model(config, execution, jnp.dtype(dtype), quantization)


def forward(config, params, **inputs) -> dict:
    """Runs any family on inputs under their Hugging Face names, e.g. `input_ids`.

    Args:
      config: the family's Config.
      params: its parameters.
      **inputs: arrays; which ones, the family's `forward` says.

    Returns:
      arrays under Hugging Face's names, e.g. `logits`, `last_hidden_state`.
    """
    model = build(config)
    return model.family.forward(model, params, **inputs)


@dataclasses.dataclass(frozen=True)
class Model:
    """Pure functions of a model family at one configuration.

    Attributes:
      config: the family's Config.
      execution: how it is computed.
      dtype: what it is computed in; parameters are float32 whatever it is.
      quantization: what its blocks' projections multiply in, see `llm_jax.layers.stack.Scan`.
      scaling: the memory of its scales, a tree of `new_scaling`; in fp8 it is needed to compute.
      interceptors: of `nn.intercept_methods`, the first one outermost: what they add to the
        module's layers has its parameters under `params["adapters"]`, see `llm_jax.peft`.
      packed: some of its layers' parameters are in few bits, see `llm_jax.kernels.packed`.
      virtual_tokens: that stand in front of each row, see `llm_jax.peft.prompt`.
      head: None, or what a task reads from the hidden states, with its parameters under
        `params["task_head"]`, see `llm_jax.models.heads`.
    """

    config: Any
    execution: Execution
    dtype: jnp.dtype
    quantization: str | None = None
    scaling: Any = None
    interceptors: tuple = ()
    packed: bool = False
    virtual_tokens: int = 0
    head: Head | None = None

    @property
    def family(self):
        """The module of `FAMILIES`."""
        return FAMILIES[self.config.family]

    @functools.cached_property
    def _module(self) -> nn.Module:
        return self.family.Transformer(
            self.config,
            attention=self.execution.attention,
            scan=dataclasses.replace(
                self.execution.scan, quantization=self.quantization, packed=self.packed
            ),
            dtype=self.dtype,
        )

    def _boxed(self, key, params=None):
        """Returns the variables that the module makes; with `params`, the others."""
        # The inputs that shape the parameters are no batch that a mesh could divide, nor worth a
        # kernel, which would stay in the program of all devices.
        anywhere = jax.sharding.AbstractDevice("any", None, "cpu")
        mesh = jax.sharding.AbstractMesh((), (), abstract_device=anywhere)
        with jax.sharding.use_abstract_mesh(mesh), self._intercepted():
            inputs = self.family.example_inputs(self.config)
            module = dataclasses.replace(self, packed=False)._module
            if params is None:
                made = dict(module.init(key, **inputs))
            else:
                made = module.apply(
                    {"params": params},
                    **inputs,
                    mutable=("scaling", "adapters"),
                    rngs={"params": key},
                )[1]
                made = {"params": {}, **made}
            added = {"adapters": made["adapters"]} if "adapters" in made else {}
            if self.head is not None:
                added["task_head"] = self.head.init(jax.random.fold_in(key, 1), self.config)
        return made | {"params": {**made["params"], **added}}

    def _intercepted(self):
        with contextlib.ExitStack() as stack:
            for interceptor in self.interceptors:
                stack.enter_context(nn.intercept_methods(interceptor))
            return stack.pop_all()

    def init(self, key):
        """Returns fresh parameters, a nested dict of float32 arrays, stacked by layer."""
        if not self.interceptors and self.head is None:
            return nn.meta.unbox(self._boxed(key)["params"])
        # What is added draws nothing that the family's own would have drawn.
        own = dataclasses.replace(self, interceptors=(), head=None)
        return self.grown(own.init(key), key)

    def new_scaling(self):
        """Returns the memory of the scales at the start, a tree of float32; None where none is."""
        return nn.meta.unbox(self._boxed(jax.random.key(0)).get("scaling"))

    def grown(self, params, key):
        """Returns `params` with what the interceptors and the head add to them.

        Args:
          params: of the family alone; some of what is added begins as they say.
          key: for what begins by chance.
        """
        return params | nn.meta.unbox(self._boxed(key, params)["params"])

    @functools.cached_property
    def _abstract(self):
        return jax.eval_shape(self._boxed, jax.random.key(0))

    @property
    def logical_axes(self):
        """A tree like the parameters; its leaves are tuples with a name or None per axis."""
        return partition.axis_names(self._abstract["params"])

    @property
    def scaling_axes(self):
        """The same of `new_scaling`."""
        return partition.axis_names(self._abstract.get("scaling"))

    @property
    def abstract_params(self):
        """A tree like the parameters, of `jax.ShapeDtypeStruct`."""
        return nn.meta.unbox(self._abstract["params"])

    @property
    def num_params(self) -> int:
        """Number of parameters, vocabulary padding included."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.abstract_params))

    def apply(self, params, *args, method: str | None = None, **inputs):
        """Returns what the family's module computes; arguments as its `__call__` or `method`."""
        variables = {"params": params}
        if self.scaling is not None:
            variables["scaling"] = self.scaling
        if "adapters" in params:
            variables["adapters"] = params["adapters"]
        with self._intercepted():
            return self._module.apply(variables, *args, method=method, **inputs)

    def read(
        self, params, tokens, mask, *,
        token_types=None, dropout_key=None, example_ids=None, perturbation=None,
    ):  # fmt: skip
        """Returns what the head reads: float32 [B, outputs], without pooling [B, T, outputs].

        Of a model with an encoder and a decoder it reads the encoder. Windows of a text are texts
        to the model, and one to the head.

        Args:
          params: of `init`, the head's included.
          tokens: int32 [B, T], of windows [B, W, T].
          mask: int32 of that shape, 1 where a token is real; a decoder's padding stands behind.
          token_types: int32 [B, T], 1 in the second of two texts, or None; a model without a table
            for them takes no notice.
          dropout_key: turns dropout on.
          example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.
          perturbation: float [B, T, D], added to what the token table gives, before it is scaled
            and before positions, token types, norm and dropout, in every family; or None, and None
            of windows.
        """
        if perturbation is not None:
            front = ((0, 0), (self.virtual_tokens, 0), (0, 0))
            moved = functools.partial(_moved, jnp.pad(perturbation, front))
            self = dataclasses.replace(self, interceptors=(moved, *self.interceptors))
        if dropout_key is not None and example_ids is None:
            example_ids = jnp.arange(tokens.shape[0])
        random = {"dropout_key": dropout_key, "example_ids": example_ids}
        real = mask.reshape(len(mask), -1) > 0
        if tokens.ndim == 2:
            found = self._read(params, tokens, mask, token_types, **random)
        else:
            windows = jnp.arange(tokens.shape[1])
            if example_ids is not None:  # of fewer than 2^24 examples in a batch
                random["example_ids"] = jnp.ravel(example_ids[:, None] + (windows << 24))
            tokens, mask = (x.reshape(-1, tokens.shape[2]) for x in (tokens, mask))
            found = self._read(params, tokens, mask, None, **random).reshape(*real.shape, -1)
        random["example_ids"] = example_ids
        return self.head.apply(params["task_head"], found, real, **random)

    def _read(self, params, tokens, mask, token_types, **random):
        """Returns the states of all tokens, `dtype` [B, T, D]."""
        if self.config.family in DECODERS:
            return self.hidden(params, tokens, **random)[0]
        tokens, mask = self._behind_virtual(tokens, mask)
        if token_types is not None:
            token_types = jnp.pad(token_types, ((0, 0), (self.virtual_tokens, 0)))
        if self.config.family == "bert":
            token_types = token_types if self.config.token_types > 1 else None
            found = self.apply(params, tokens, segment_ids=mask, token_types=token_types, **random)[
                "last_hidden_state"
            ]
        else:
            given = {"input_ids": tokens, "attention_mask": mask}
            found = self.apply(params, method="encode", **given, **random)["hidden"]
        return found[:, self.virtual_tokens :]

    def word_vectors(self, params, tokens):
        """Returns what the token table gives for int32 `tokens [B, T]`: `dtype` [B, T, D]."""
        table = constrain(params["embedding"]["table"], ("vocab", "embed"))
        return jnp.take(table, tokens, axis=0, mode="clip").astype(self.dtype)

    def _behind_virtual(self, tokens, mask=None):
        """Returns tokens and mask [B, V + T] with the virtual tokens in front."""
        if not self.virtual_tokens:
            return tokens, mask
        ids = self.config.padded_vocab + jnp.arange(self.virtual_tokens, dtype=jnp.int32)
        front = jnp.broadcast_to(ids, (tokens.shape[0], self.virtual_tokens))
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (self.virtual_tokens, 0)), constant_values=1)
        return jnp.concatenate([front, tokens], axis=1), mask

    def hidden(
        self,
        params,
        tokens,
        *,
        positions=None,
        segment_ids=None,
        dropout_key=None,
        example_ids=None,
        cache=None,
    ):
        """Runs the blocks.

        Args:
          params: of `init`.
          tokens: int32 [B, T].
          positions: int32 [B, T], each token's place in its document; None means `0 .. T-1`.
            With a cache also the slot that the token is written to and sees up to; a token at a
            negative position, or behind the end of a cache that is no ring, is not written and
            its result is void. A text's beginning is read fastest without positions (where a
            cache is a ring or a state, only rows without padding). A state (linear attention)
            takes a row's tokens in their order, each once.
          segment_ids: int32 [B, T]: tokens attend within their own segment only (no cache).
          dropout_key: turns dropout on.
          example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.
          cache: of `init_cache`, or None.

        Returns:
          `(hidden [B, T, D], cache)`, the first in `dtype`, behind the final norm.

        Raises:
          ConfigError: the family is no decoder, T is longer than the model's positions or than a
            cache that came without positions, or a cache came with segments.
        """
        require_decoder(self.config)
        virtual = self.virtual_tokens if cache is None else 0  # a cache has them already
        if virtual and (positions is not None or segment_ids is not None):
            raise ConfigError(
                f"{virtual} virtual tokens stand in front of a row, which must be one text: rows "
                "with several documents cannot be tuned by prompts or prefixes"
            )
        if virtual:
            tokens, _ = self._behind_virtual(tokens)
        if positions is None and tokens.shape[1] > self.config.max_positions:
            raise ConfigError(
                f"a sequence of {tokens.shape[1]} tokens is longer than the model's "
                f"{self.config.max_positions} positions: raise model.max_positions or shorten it"
            )
        if cache is not None and segment_ids is not None:
            raise ConfigError("a cache takes no segment_ids: give one document in each row")
        if cache is not None and "key" in cache and positions is None:
            length, slots = tokens.shape[1], cache["key"].shape[3]
            if slots < self.cache_slots(length):
                raise ConfigError(
                    f"{length} tokens do not fit a cache of {slots} slots: give it more, or give "
                    "the tokens their positions"
                )
        if dropout_key is not None and example_ids is None:
            example_ids = jnp.arange(tokens.shape[0])
        found, cache = self.apply(
            params,
            tokens,
            positions=positions,
            segment_ids=segment_ids,
            dropout_key=dropout_key,
            example_ids=example_ids,
            cache=cache,
        )
        return found[:, virtual:], cache

    def output_embedding(self, params):
        """Returns the float32 [padded_vocab, D] matrix that maps hidden states to logits."""
        return self.family.output_embedding(self.config, params)

    @property
    def logit_cap(self) -> float | None:
        """What logits are bounded by (Gemma 2, arXiv:2408.00118); None for most families."""
        return getattr(self.config, "logit_cap", None)

    def logits(self, params, hidden):
        """Returns float32 [..., vocab_size] of `hidden [..., D]`; the padding is cut.

        A family whose config has a `logit_cap` bounds them by it: `cap tanh(logits / cap)`.
        """
        table = self.output_embedding(params).astype(hidden.dtype)
        flat = hidden.reshape(-1, hidden.shape[-1])
        logits = jnp.matmul(flat, table.T, preferred_element_type=jnp.float32)
        if self.logit_cap is not None:
            logits = self.logit_cap * jnp.tanh(logits / self.logit_cap)
        return logits.reshape(*hidden.shape[:-1], -1)[..., : self.config.vocab_size]

    def cache_slots(self, length: int, *, ahead: int = 0) -> int:
        """Returns the slots of a cache for positions below `length`, see `init_cache`."""
        if self.config.attention_pattern.linear:
            return 0
        sliding = getattr(self.config, "sliding", (False,))
        return min(length, self.config.window + ahead) if all(sliding) else length

    def init_cache(self, batch: int, length: int, *, ahead: int = 0):
        """Returns an empty cache: `key` and `value`, each [L, batch, K, slots, H] in `dtype`.

        A model of linear attention has no slots but a `state`, float32 [L, batch, K, H, H + 1], see
        `llm_jax.kernels.linear_attention.continued`: the same size at any length.

        A position has the slot of its number. Where every layer sees one window only, the cache
        is a ring of no more slots than that window, and `ahead` more: so many tokens may be
        written and then taken back, by writing others at their positions.
        """
        config = self.config
        slots = self.cache_slots(length, ahead=ahead)
        head_dim = config.size_of_head
        if config.attention_pattern.linear:
            shape = (config.num_layers, batch, config.kv_heads, head_dim, head_dim + 1)
            return {"state": jnp.zeros(shape, jnp.float32)}
        shape = (config.num_layers, batch, config.kv_heads, slots, head_dim)
        return {"key": jnp.zeros(shape, self.dtype), "value": jnp.zeros(shape, self.dtype)}

    def flops_per_token(self, sequence_length: int) -> Flops:
        """Returns the arithmetic of training on one token of a row of `sequence_length`."""
        return self.family.flops_per_token(self.config, sequence_length)

    def kernels(self, batch_size: int, sequence_length: int) -> dict:
        """Returns the implementations that training picks, for a run's header.

        Call it as training itself, under `jax.set_mesh`: they depend on the devices.
        """
        config = self.config
        block = config.block(cross=False) if callable(config.block) else config.block
        chosen = {
            "attention": attention.choose(
                self.execution.attention,
                platform=platform(),
                query_shape=(batch_size, sequence_length, config.num_heads, config.size_of_head),
                dtype=self.dtype,
                dropout=config.attention_dropout_rate > 0.0,
                bias=hasattr(config, "num_buckets"),  # T5's relative positions
                scores=block.scores,
                pattern=config.attention_pattern,
                sequence=axis_size("seq"),
            )
        }
        if getattr(config, "experts", None) and config.experts.capacity_factor is None:
            chosen["experts"] = grouped.choose(self.dtype)
        return chosen


def _moved(perturbation, call, args, kwargs, context):
    """Adds `perturbation` to what the token table gives, see `flax.linen.intercept_methods`."""
    found = call(*args, **kwargs)
    module = context.module
    if isinstance(module, Table) and module.name == "embedding":
        return found + perturbation.astype(found.dtype)
    return found
