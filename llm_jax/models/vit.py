"""Vision transformers: ViT (Dosovitskiy et al. 2020, arXiv:2010.11929), DeiT and DINOv2.

Pre-norm blocks over patches of an image and a class token, in which every token sees every other
one. DeiT (Touvron et al. 2020, arXiv:2012.12877) adds a distillation token; DINOv2 (Oquab et al.
2023, arXiv:2304.07193) layer scale, a mask token and perhaps registers (Darcet et al. 2023,
arXiv:2309.16588).
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers.attention import Shape
from llm_jax.layers.block import ALL_BIASES, Block, BlockConfig, Context, Layer
from llm_jax.layers.dropout import dropout, site_key
from llm_jax.layers.linear import Projection
from llm_jax.layers.mlp import ACTIVATIONS
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.partition import named
from llm_jax.layers.patches import PatchEmbedding, grid_positions
from llm_jax.layers.stack import Scan, stack
from llm_jax.models.checks import check_choice, check_first_tokens, check_heads, check_sizes
from llm_jax.models.flops import Flops, row_keys
from llm_jax.parallel.sharding import constrain

CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "pooler": ("none", "tanh", "class_token"),
    "head": ("none", "classification", "distilled", "pixels"),
    "head_input": ("class_token", "class_token_and_patches"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of an encoder of images; the defaults are ViT base at 224 pixels.

    Attributes:
      image_size: side of the images that it has positions for, in pixels.
      patch_size: side of a patch, in pixels.
      mlp_size: None means `4 * hidden_size`.
      gated: its MLP is gated.
      qkv_bias: queries, keys and values have a bias.
      distillation_token: a second token beside the class token.
      num_registers: tokens without position between class token and patches.
      window: a token sees those nearer than so many on both sides, in the order of the row: class
        token, then patches line by line; None for all, which a class token that is read needs.
      attention_pattern: which of them, see `llm_jax.kernels.pattern.Pattern`; the tokens before the
        patches are in its global blocks where the class token is read.
      mask_token: a vector in place of masked patches.
      layer_scale: see `llm_jax.layers.block.BlockConfig`.
      any_image_size: positions are resampled for images of another size unasked.
      antialias: of that, see `llm_jax.layers.patches.resample`.
      pooler: "none", "tanh" (tanh(W x) of the class token) or "class_token" (itself).
      head: "none", "classification" into `num_classes`, "distilled": one of the class token and
        one of the distillation token, averaged, or "pixels": of every patch.
      head_input: "class_token", or "class_token_and_patches": beside it the patches' mean.
      dropout_rate: behind the embedding and both branches.
      attention_dropout_rate: of attention probabilities; needs the plain attention.
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      init_std: of all matrices.
    """

    family: str = "vit"
    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    mlp_size: int | None = None
    gated: bool = False
    qkv_bias: bool = True
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    distillation_token: bool = False
    num_registers: int = 0
    window: int | None = None
    attention_pattern: Pattern = Pattern()
    mask_token: bool = False
    layer_scale: float | None = None
    any_image_size: bool = False
    antialias: bool = False
    pooler: str = "tanh"
    head: str = "none"
    head_input: str = "class_token"
    num_classes: int = 1000
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_norm_epsilon: float = 1e-12
    activation: str = "gelu"
    init_std: float = 0.02

    def __post_init__(self):
        sizes = ("num_layers", "num_heads", "hidden_size", "image_size", "patch_size")
        check_sizes(self, (*sizes, "num_channels", "num_classes", "mlp_size", "window"))
        if self.num_registers < 0:
            raise ConfigError(f"model.num_registers is {self.num_registers}: give 0 or more")
        check_heads(self)
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"model.image_size {self.image_size} does not divide into model.patch_size "
                f"{self.patch_size}: change one"
            )
        for name, known in CHOICES.items():
            check_choice(self, name, known)
        if self.head == "pixels" and not self.mask_token:
            raise ConfigError("model.head='pixels' needs model.mask_token=True")
        if self.head == "distilled" and not self.distillation_token:
            raise ConfigError("model.head='distilled' needs model.distillation_token=True")
        self.attention_pattern.check(
            causal=False, window=self.window, dropout_rate=self.attention_dropout_rate
        )
        if self.pooler != "none" or self.head not in ("none", "pixels"):
            check_first_tokens(self, self.special_tokens + self.num_registers)

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.num_heads

    @property
    def size_of_head(self) -> int:
        """Size of one head."""
        return self.hidden_size // self.num_heads

    @property
    def size_of_mlp(self) -> int:
        """Hidden units of a block's MLP."""
        return self.mlp_size or 4 * self.hidden_size

    @property
    def grid(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch_size

    @property
    def special_tokens(self) -> int:
        """Tokens with a position before the patches': class and distillation."""
        return 1 + self.distillation_token

    @property
    def block(self) -> BlockConfig:
        """What its blocks are."""
        return BlockConfig(
            shape=Shape(self.hidden_size, self.num_heads, self.kv_heads, self.size_of_head),
            mlp_size=self.size_of_mlp,
            activation=self.activation,
            gated=self.gated,
            norm_epsilon=self.layer_norm_epsilon,
            attention_biases=ALL_BIASES if self.qkv_bias else ("output",),
            layer_scale=self.layer_scale,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init_std=self.init_std,
            output_std=self.init_std,
        )


_BASE = {"num_layers": 12, "num_heads": 12, "hidden_size": 768, "mlp_size": 3072}
_CLASSES = {"pooler": "none", "head": "classification", "num_classes": 1000}
_DINO = {
    "image_size": 518,
    "patch_size": 14,
    "mask_token": True,
    "layer_scale": 1.0,
    "any_image_size": True,
    "pooler": "class_token",
    "head_input": "class_token_and_patches",
    "layer_norm_epsilon": 1e-6,
}
PRESETS: dict[str, dict] = {
    "vit-base-patch16-224": _BASE | _CLASSES,
    "vit-large-patch16-224": _CLASSES
    | {"num_layers": 24, "num_heads": 16, "hidden_size": 1024, "mlp_size": 4096},
    "deit-base-distilled-patch16-224": _BASE
    | _CLASSES
    | {"distillation_token": True, "head": "distilled"},
    "dinov2-small": _DINO
    | {"num_layers": 12, "num_heads": 6, "hidden_size": 384, "mlp_size": 1536},
    "dinov2-base": _DINO | _BASE,
}


class Transformer(nn.Module):
    """Images to hidden states, and what the heads make of them.

    Attributes:
      config: sizes and choices.
      attention: a name of `llm_jax.kernels.attention`, or "auto".
      scan: how its layers are run.
      dtype: of the computation; parameters are float32.
    """

    config: Config
    attention: str = "auto"
    scan: Scan = Scan()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, pixels, *, masked=None, resampled=False, dropout_key=None, example_ids=None
    ) -> dict:
        """Returns outputs by name; arguments and results as `forward`'s.

        Args:
          pixels: [B, C, H, W].
          masked: bool [B, patches] or None: which the mask token stands for.
          resampled: images of another size are taken, with resampled positions.
          dropout_key: turns dropout on.
          example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.
        """
        config = self.config
        if dropout_key is not None and example_ids is None:
            example_ids = jnp.arange(pixels.shape[0])
        x = self._embed(pixels, masked, resampled)
        if dropout_key is not None:
            x = dropout(x, config.dropout_rate, site_key(dropout_key, "embedding"), example_ids)
        x = constrain(x, ("batch", "length", "embed"))
        blocks = stack(
            Block,
            num_layers=config.num_layers,
            scan=self.scan,
            name="layers",
            config=config.block,
            implementation=self.attention,
            dtype=self.dtype,
        )
        mask = Mask(window=config.window, causal=False, pattern=config.attention_pattern)
        context = Context(mask, dropout_key=dropout_key, example_ids=example_ids)
        (x, _), _ = blocks((x, None), Layer(jnp.arange(config.num_layers)), context)
        x = LayerNorm(config.layer_norm_epsilon, True, self.dtype, name="final_norm")(x)
        return {"last_hidden_state": x} | self._heads(x)

    def _embed(self, pixels, masked, resampled):
        """Returns [B, tokens, D]: class token, distillation token, registers, patches."""
        config = self.config
        size = config.hidden_size
        x = PatchEmbedding(
            config.patch_size,
            config.num_channels,
            size,
            True,
            config.init_std,
            self.dtype,
            name="patches",
        )(pixels)
        if config.mask_token:
            mask_token = self._vectors("mask_token", (), std=0.0)
            if masked is not None:
                x = jnp.where(masked[..., None], mask_token, x)

        special, grid = config.special_tokens, config.grid
        places = self._vectors("positions", (special + grid * grid,))
        sides = tuple(side // config.patch_size for side in pixels.shape[2:])
        places = grid_positions(
            places,
            grid,
            sides,
            special=special,
            resampled=resampled,
            antialias=config.antialias,
        )
        first = [self._vectors("class_token", (1,))]
        if config.distillation_token:
            first.append(self._vectors("distillation_token", (1,)))
        first = jnp.concatenate(first) + places[:special]
        if config.num_registers:
            first = jnp.concatenate([first, self._vectors("registers", (config.num_registers,))])
        first = jnp.broadcast_to(first.astype(self.dtype), (x.shape[0], *first.shape))
        return jnp.concatenate([first, x + places[special:].astype(self.dtype)], axis=1)

    def _vectors(self, name, lead, std=None):
        std = self.config.init_std if std is None else std
        names = (*("positions",) * len(lead), "embed")
        start = named(nn.initializers.normal(std), names)
        return self.param(name, start, (*lead, self.config.hidden_size))

    def _heads(self, x) -> dict:
        config = self.config
        size, token = config.hidden_size, x[:, 0]

        def project(name, inner, outer, x):
            names = ("embed", None)
            std = config.init_std
            return Projection((inner,), (outer,), names, std, True, self.dtype, name=name)(x)

        outputs = {}
        if config.pooler == "class_token":
            outputs["pooler_output"] = token
        elif config.pooler == "tanh":
            outputs["pooler_output"] = jnp.tanh(project("pooler", size, size, token))
        if config.head == "pixels":
            patches = x[:, config.special_tokens + config.num_registers :]
            pixels = config.num_channels * config.patch_size**2
            outputs["patches"] = project("head", size, pixels, patches).astype(jnp.float32)
        elif config.head != "none":
            if config.head_input == "class_token_and_patches":
                patches = x[:, config.special_tokens + config.num_registers :]
                token = jnp.concatenate([token, jnp.mean(patches, axis=1)], axis=-1)
            classes = project("head", token.shape[-1], config.num_classes, token)
            outputs["logits"] = classes.astype(jnp.float32)
        if config.head == "distilled":
            other = project("distillation_head", size, config.num_classes, x[:, 1])
            outputs["cls_logits"] = outputs["logits"]
            outputs["distillation_logits"] = other.astype(jnp.float32)
            outputs["logits"] = (outputs["cls_logits"] + outputs["distillation_logits"]) / 2
        return outputs


def example_inputs(config: Config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    side = config.image_size
    return {"pixels": jnp.zeros((1, config.num_channels, side, side), jnp.float32)}


def forward(
    model,
    params,
    *,
    pixel_values,
    bool_masked_pos=None,
    interpolate_pos_encoding=None,
    dropout_key=None,
    example_ids=None,
) -> dict:
    """Returns `last_hidden_state`, and `pooler_output` and `logits` where the model has them.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      pixel_values: [B, C, H, W], normalized as the model was trained.
      bool_masked_pos: bool [B, patches], patches that the mask token stands for.
      interpolate_pos_encoding: takes images of another size, with resampled positions; None: if
        the configuration says so.
      dropout_key: turns dropout on.
      example_ids: int32 [B], which draws each row takes; None means `0 .. B-1`.

    Returns:
      last_hidden_state: [B, tokens, D] behind the final norm; pooler_output: [B, D]; logits:
      float32 [B, num_classes], and with a distilled head those of its two parts, `cls_logits` and
      `distillation_logits`; patches: float32 [B, patches, C P P], pixels of a patch by channel,
      row and column, of a head for pixels.

    Raises:
      ConfigError: images of another size without asking, of sides that patches do not divide, or
        of another number of channels; masked patches without a mask token.
    """
    if bool_masked_pos is not None and not model.config.mask_token:
        raise ConfigError("bool_masked_pos was given, but model.mask_token is False")
    resampled = interpolate_pos_encoding
    return model.apply(
        params,
        jnp.asarray(pixel_values, model.dtype),
        masked=None if bool_masked_pos is None else jnp.asarray(bool_masked_pos, bool),
        resampled=model.config.any_image_size if resampled is None else resampled,
        dropout_key=dropout_key,
        example_ids=example_ids,
    )


def flops_per_token(config: Config, sequence_length: int) -> Flops:
    """Floating-point operations of training on one patch; see `llm_jax.models.flops`.

    Each token sees the whole image, so that nothing of the attention may be halved: it stands with
    the matrix products. Heads, which see one token of an image, are left out.
    """
    size = config.hidden_size
    mlp = (3 if config.gated else 2) * size * config.size_of_mlp
    weights = config.num_layers * (4 * size * size + mlp)
    weights += config.num_channels * config.patch_size**2 * size
    keys = row_keys(
        sequence_length,
        head_dim=config.size_of_head,
        window=config.window,
        pattern=config.attention_pattern,
        causal=False,
    )
    return Flops(
        matmul=6.0 * weights + 12.0 * config.num_layers * size * keys,
        attention=0.0,
        formula=(
            "6 (layers (attention + mlp weights) + patch embedding)"
            " + 12 layers x width x length (whole attention), or less by window and pattern"
        ),
    )
