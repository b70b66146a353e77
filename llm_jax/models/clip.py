"""CLIP (Radford et al. 2021, arXiv:2103.00020) and SigLIP (Zhai et al. 2023, arXiv:2303.15343).

A tower for texts and one for images, both of pre-norm blocks, whose outputs are compared by cosine.
CLIP's text is causal and read at its end token, its image at a class token. SigLIP's text is
bidirectional and read at its last token, its image by an attention that one learned query makes
over the patches, and its logits have a bias.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.layers.dropout import site_key
from llm_jax.layers.partition import named
from llm_jax.layers.stack import Scan
from llm_jax.models.clip_towers import Image, ImageTower, Text, TextTower
from llm_jax.models.flops import Flops

KINDS = ("clip", "siglip")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and choices of two towers; the defaults are CLIP's with patches of 32 pixels.

    Attributes:
      kind: "clip" or "siglip", see the module.
      text, image: the towers.
      projection_size: of the embeddings that are compared; None: the image's width, as SigLIP's.
      end_id: the token that CLIP (not SigLIP) reads a text at, the first of a row; None: the first
        of the highest id in the row (what the first published files mean by `eos_token_id` 2).
      init_std: of all matrices.
    """

    family: str = "clip"
    kind: str = "clip"
    text: Text = Text()
    image: Image = Image()
    projection_size: int | None = 512
    end_id: int | None = 49407
    init_std: float = 0.02

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"model.kind is {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.projection_size is not None and self.projection_size < 1:
            raise ConfigError(
                f"model.projection_size is {self.projection_size}: give at least 1, or None"
            )
        if self.kind == "siglip" and self.projection_size not in (None, self.image.hidden_size):
            raise ConfigError(
                f"model.projection_size is {self.projection_size}: SigLIP's is that of the image, "
                f"{self.image.hidden_size}: give None"
            )
        clip = self.kind == "clip"
        self.text.check_attention(causal=clip)
        self.image.check_attention(causal=False, first_tokens=int(clip))

    @property
    def num_heads(self) -> int:
        """Attention heads of the text tower."""
        return self.text.num_heads

    @property
    def size_of_head(self) -> int:
        """Size of one head of the text tower."""
        return self.text.shape.head_dim

    @property
    def max_positions(self) -> int:
        """Tokens of the longest text."""
        return self.text.max_positions

    @property
    def attention_dropout_rate(self) -> float:
        """The larger one of the towers'."""
        return max(self.text.attention_dropout_rate, self.image.attention_dropout_rate)


_LARGE = {"num_layers": 24, "num_heads": 16, "hidden_size": 1024, "mlp_size": 4096}
_SIGLIP = {"activation": "gelu_tanh", "layer_norm_epsilon": 1e-6}
PRESETS: dict[str, dict] = {
    "clip-vit-base-patch32": {"end_id": None},
    "clip-vit-large-patch14": {
        "text": {"num_heads": 12, "hidden_size": 768, "mlp_size": 3072},
        "image": _LARGE | {"patch_size": 14},
        "projection_size": 768,
        "end_id": None,
    },
    "siglip-base-patch16-224": {
        "kind": "siglip",
        "text": _SIGLIP
        | {
            "num_heads": 12,
            "hidden_size": 768,
            "mlp_size": 3072,
            "vocab_size": 32000,
            "max_positions": 64,
        },
        "image": _SIGLIP | {"patch_size": 16},
        "projection_size": None,
    },
}


class Transformer(nn.Module):
    """Texts and images to embeddings of length one, and their likeness.

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
        self,
        tokens=None,
        *,
        pixels=None,
        attention_mask=None,
        resampled=False,
        dropout_key=None,
        example_ids=None,
    ) -> dict:
        """Returns outputs by name; arguments and results as `forward`'s.

        Args:
          tokens: int32 [T, length] or None.
          pixels: [I, C, H, W] or None.
          attention_mask: int [T, length]: 0 hides a token from all others.
          resampled: images of another size are taken, with resampled positions.
          dropout_key: turns dropout on.
          example_ids: int32 [T] (and of as many images), which draws each row takes.
        """
        config = self.config
        run = {"attention": self.attention, "scan": self.scan}
        run |= {"dtype": self.dtype, "init_std": config.init_std, "kind": config.kind}
        run |= {"features": config.projection_size or config.image.hidden_size}
        outputs = {}

        def keys(name, rows):
            if dropout_key is None:
                return {}
            ids = jnp.arange(rows) if example_ids is None else example_ids
            return {"dropout_key": site_key(dropout_key, name), "example_ids": ids}

        if tokens is not None:
            drawn = keys("text", tokens.shape[0])
            tower = TextTower(config.text, end_id=config.end_id, name="text", **run)
            x = tower(tokens, attention_mask, **drawn)
            outputs["text_embeds"] = _unit(x)
        if pixels is not None:
            drawn = keys("image", pixels.shape[0])
            x = ImageTower(config.image, name="image", **run)(pixels, resampled, **drawn)
            outputs["image_embeds"] = _unit(x)
        # log(1 / 0.07) in CLIP, log 10 in SigLIP.
        begin = 2.6592 if config.kind == "clip" else 2.302585
        scale = self.param("logit_scale", named(nn.initializers.constant(begin), ()), ())
        bias = 0.0
        if config.kind == "siglip":
            bias = self.param("logit_bias", named(nn.initializers.constant(-10.0), ()), ())
        if len(outputs) == 2:
            cosine = outputs["text_embeds"] @ outputs["image_embeds"].T
            outputs["logits_per_text"] = cosine * jnp.exp(scale) + bias
            outputs["logits_per_image"] = outputs["logits_per_text"].T
        return outputs


def _unit(x):
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))


def example_inputs(config: Config) -> dict:
    """Returns the smallest inputs of the module: they shape its parameters."""
    side = config.image.image_size
    pixels = jnp.zeros((1, config.image.num_channels, side, side), jnp.float32)
    return {"tokens": jnp.zeros((1, 1), jnp.int32), "pixels": pixels}


def forward(
    model,
    params,
    *,
    input_ids=None,
    attention_mask=None,
    pixel_values=None,
    interpolate_pos_encoding=False,
    dropout_key=None,
    example_ids=None,
) -> dict:
    """Returns the embeddings of texts and of images, and how alike they are.

    Args:
      model: the `llm_jax.models.Model`.
      params: its parameters.
      input_ids: int [T, length], or None for images alone.
      attention_mask: int [T, length], 0 where a token is padding; None: all are seen, as SigLIP
        was trained.
      pixel_values: [I, C, H, W], normalized as the model was trained, or None for texts alone.
      interpolate_pos_encoding: takes images of another size, with resampled positions.
      dropout_key: turns dropout on.
      example_ids: int32 [T], which draws each row takes; None means `0 .. T-1`.

    Returns:
      text_embeds: float32 [T, E] and image_embeds: float32 [I, E], of length one; with both
      logits_per_text: float32 [T, I], and logits_per_image, its transpose.

    Raises:
      ConfigError: neither texts nor images, a text longer than the positions, images of another
        size without asking, of sides that patches do not divide, or of other channels.
    """
    config = model.config
    if input_ids is None and pixel_values is None:
        raise ConfigError("neither input_ids nor pixel_values were given: give one or both")
    if input_ids is not None and input_ids.shape[1] > config.max_positions:
        raise ConfigError(
            f"a text of {input_ids.shape[1]} tokens is longer than the model's "
            f"{config.max_positions} positions: raise model.text.max_positions or shorten it"
        )
    return model.apply(
        params,
        None if input_ids is None else jnp.asarray(input_ids),
        pixels=None if pixel_values is None else jnp.asarray(pixel_values, model.dtype),
        attention_mask=attention_mask,
        resampled=interpolate_pos_encoding,
        dropout_key=dropout_key,
        example_ids=example_ids,
    )


def flops_per_token(config: Config, sequence_length: int) -> Flops:
    """Floating-point operations of training on one text token and its share of an image.

    An example is a text of `sequence_length` and an image. All attention is counted whole and
    stands with the matrix products, CLIP's causal text too: the image is most of the work.
    """
    text, image = config.text, config.image
    patches = image.grid**2
    weights = image.block_weights + image.num_channels * image.patch_size**2 * image.hidden_size
    keys = image.keys_seen(patches, causal=False)
    of_image = patches * (6.0 * weights + 12.0 * image.num_layers * image.hidden_size * keys)
    keys = text.keys_seen(sequence_length, causal=config.kind == "clip")
    of_token = 6.0 * text.block_weights + 12.0 * text.num_layers * text.hidden_size * keys
    return Flops(
        matmul=of_token + of_image / sequence_length,
        attention=0.0,
        formula=(
            "6 text weights + 12 layers x width x length (whole attention)"
            " + the same of an image's patches / text length, or less by window and pattern"
        ),
    )
