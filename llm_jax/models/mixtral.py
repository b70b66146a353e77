"""Mixtral (Jiang et al. 2024, arXiv:2401.04088) and the mixtures of Qwen: Llama with experts.

All but the feed-forward part is `llm_jax.models.llama`'s.
"""

import dataclasses

import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.layers.block import ALL_BIASES, Block, BlockConfig
from llm_jax.layers.moe import Experts, MoE, load_balance_loss, router_z_loss
from llm_jax.models import llama
from llm_jax.models.flops import Flops
from llm_jax.models.llama import example_inputs, output_embedding  # noqa: F401 (of the family)


@dataclasses.dataclass(frozen=True)
class ExpertBlockConfig(BlockConfig):
    """A block whose MLP, of `mlp_size` each, is a mixture."""

    experts: Experts = Experts(8, 2)


class ExpertBlock(Block):
    """`Block` with a mixture; it also returns the router's logits [B, T, E]."""

    config: ExpertBlockConfig

    def __call__(self, carry, layer, context):
        """Takes and returns `(x, cache or None)`, and logits."""
        routed = []
        object.__setattr__(self, "_routed", routed)
        carry, _ = super().__call__(carry, layer, context)
        return carry, routed[0]

    def _mlp(self):
        config = self.config
        mixture = MoE(
            experts=config.experts,
            hidden_size=config.shape.hidden_size,
            mlp_size=config.mlp_size,
            activation=config.activation,
            init_std=config.init_std,
            output_std=config.output_std,
            dtype=self.dtype,
            name="mlp",
        )

        def mix(x):
            y, logits = mixture(x)
            self._routed.append(logits)
            return y

        return mix


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Sizes and choices: Llama's, with `mlp_size` of one expert; defaults are not a known model.

    Attributes:
      num_experts: experts of a layer.
      experts_per_token: how many of them see a token.
      normalize_weights: a token's weights sum to 1.
      capacity_factor: None drops nothing; see `llm_jax.layers.moe.Experts`.
      shared_mlp_size: hidden units of the expert that sees all tokens; None for none.
      balance_coefficient: of the load balance loss in training.
      balance_group: whose tokens are balanced: "sequence", each row's, which accumulation leaves
        exact, or "batch", a microbatch's, as `transformers` has it.
      router_z_coefficient: of the router's z-loss in training, which keeps its logits small; 0.001
        in ST-MoE (Zoph et al. 2022, arXiv:2202.08906).
    """

    family: str = "mixtral"
    num_experts: int = 8
    experts_per_token: int = 2
    normalize_weights: bool = True
    capacity_factor: float | None = None
    shared_mlp_size: int | None = None
    balance_coefficient: float = 0.001
    balance_group: str = "sequence"
    router_z_coefficient: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.mlp_bias:
            raise ConfigError("model.mlp_bias is True: experts have no biases")
        for name in ("balance_coefficient", "router_z_coefficient"):
            if getattr(self, name) < 0:
                raise ConfigError(f"model.{name} is {getattr(self, name)}: give at least 0")
        if self.balance_group not in ("sequence", "batch"):
            raise ConfigError(
                f"model.balance_group is {self.balance_group!r}: choose 'sequence' or 'batch'"
            )
        _ = self.experts

    @property
    def experts(self) -> Experts:
        """How many experts, and how they are chosen."""
        return Experts(
            self.num_experts, self.experts_per_token, self.normalize_weights,
            self.capacity_factor, self.shared_mlp_size,
        )  # fmt: skip

    @property
    def block(self) -> ExpertBlockConfig:
        """What its blocks are."""
        plain = super().block
        values = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        return ExpertBlockConfig(**values, experts=self.experts)


class Transformer(llama.Transformer):
    """Tokens to hidden states; see `llm_jax.models.llama.Transformer`."""

    config: Config
    block_module = ExpertBlock


def hidden_and_router(model, params, tokens, **inputs):
    """Returns `(hidden [B, T, D], router's logits float32 [L, B, T, E])`.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      tokens: int32 [B, T].
      **inputs: as `Model.hidden`'s, without a cache.
    """
    if inputs.get("dropout_key") is not None and inputs.get("example_ids") is None:
        inputs["example_ids"] = jnp.arange(tokens.shape[0])
    (hidden, _), state = model.apply(params, tokens, mutable=["intermediates"], **inputs)
    return hidden, state["intermediates"]["router_logits"][0]


def hidden_and_balance(model, params, tokens, weights, **inputs):
    """Returns the hidden states, and the router's losses to be added to a batch's sum.

    Args:
      model, params, tokens, **inputs: as of `hidden_and_router`.
      weights: float32 [B, T] of the tokens; the losses are means times their sum.
    """
    config = model.config
    hidden, router = hidden_and_router(model, params, tokens, **inputs)
    per_token, group = config.experts_per_token, config.balance_group
    balance, _ = load_balance_loss(router, weights, per_token=per_token, group=group)
    losses = config.balance_coefficient * balance
    if config.router_z_coefficient:
        losses += config.router_z_coefficient * router_z_loss(router, weights)[0]
    return hidden, losses


def forward(model, params, *, input_ids, attention_mask=None) -> dict:
    """Returns `logits`, `last_hidden_state`, `router_logits [L, B, T, E]` and `aux_loss`.

    As MixtralForCausalLM's with `output_router_logits=True`, which has a tuple of [B T, E].

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      input_ids: int [B, T].
      attention_mask: int [B, T], 0 where a token is padding; what comes out there is void.
    """
    hidden, router = hidden_and_router(model, params, input_ids, segment_ids=attention_mask)
    weights = jnp.ones(input_ids.shape) if attention_mask is None else attention_mask
    per_token = model.config.experts_per_token
    loss, weight = load_balance_loss(router, jnp.asarray(weights), per_token=per_token)
    return {
        "logits": model.logits(params, hidden),
        "last_hidden_state": hidden,
        "router_logits": router,
        "aux_loss": loss / weight,
    }


def flops_per_token(config: Config, sequence_length: int) -> Flops:
    """Floating-point operations of training on one token; see `llm_jax.models.flops`."""
    dense = llama.flops_per_token(config, sequence_length)
    mlps = (config.experts_per_token - 1) * config.mlp_size + (config.shared_mlp_size or 0)
    gates = config.num_experts + (config.shared_mlp_size is not None)
    more = config.num_layers * config.hidden_size * (3 * mlps + gates)
    formula = dense.formula.replace("mlp weights", "router + chosen experts' weights")
    return Flops(dense.matmul + 6.0 * more, dense.attention, formula)


_QWEN = {
    "vocab_size": 151_936, "norm_epsilon": 1e-6, "rotary_base": 1e6, "hidden_size": 2048,
    "bos_id": 151_643,
}  # fmt: skip
PRESETS: dict[str, dict] = {
    "mixtral-8x7b-v0.1": {
        "num_kv_heads": 8, "mlp_size": 14_336, "max_positions": 32_768, "rotary_base": 1e6,
        "bos_id": 1, "end_ids": (2,), "balance_coefficient": 0.02,
    },
    "qwen1.5-moe-a2.7b": _QWEN | {
        "num_layers": 24, "num_heads": 16, "mlp_size": 1408, "max_positions": 8192,
        "attention_biases": ALL_BIASES[:3], "num_experts": 60, "experts_per_token": 4,
        "normalize_weights": False, "shared_mlp_size": 5632, "end_ids": (151_643,),
    },
    "qwen3-30b-a3b": _QWEN | {
        "num_layers": 48, "num_heads": 32, "num_kv_heads": 4, "head_dim": 128, "mlp_size": 768,
        "max_positions": 40_960, "qk_norm": True, "num_experts": 128, "experts_per_token": 8,
        "end_ids": (151_645,),
    },
}  # fmt: skip
