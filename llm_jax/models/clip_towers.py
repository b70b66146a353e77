"""The towers of CLIP and SigLIP: what they are made of, and the modules; see `models.clip`."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers.attention import Attention, Shape
from llm_jax.layers.block import ALL_BIASES, Block, BlockConfig, Context, Layer
from llm_jax.layers.embed import Table, padded_rows
from llm_jax.layers.linear import Projection
from llm_jax.layers.mlp import ACTIVATIONS, MLP
from llm_jax.layers.norm import LayerNorm
from llm_jax.layers.partition import named
from llm_jax.layers.patches import PatchEmbedding, grid_positions
from llm_jax.layers.stack import Scan, stack
from llm_jax.models.checks import check_first_tokens
from llm_jax.models.flops import row_keys
from llm_jax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Tower:
    """Sizes and choices that both towers have.

    Attributes:
      activation: a key of `llm_jax.layers.mlp.ACTIVATIONS`.
      window: how many tokens a token sees, its own included (without a causal mask so many to both
        sides); None for all, which CLIP's class token needs.
      attention_pattern: which of them, see `llm_jax.kernels.pattern.Pattern`; CLIP's class token is
        in its global blocks.
    """

    num_layers: int = 12
    num_heads: int = 12
    hidden_size: int = 768
    mlp_size: int = 3072
    activation: str = "quick_gelu"
    layer_norm_epsilon: float = 1e-5
    attention_dropout_rate: float = 0.0
    window: int | None = None
    attention_pattern: Pattern = Pattern()

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, int | None) and value is not None and value < 1:
                raise ConfigError(f"{self.path}.{field.name} is {value}: give at least 1")
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"{self.path}.hidden_size {self.hidden_size} does not divide into "
                f"{self.path}.num_heads {self.num_heads}: change one"
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"{self.path}.activation is {self.activation!r}: choose one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        if not 0.0 <= self.attention_dropout_rate < 1.0:
            raise ConfigError(
                f"{self.path}.attention_dropout_rate is {self.attention_dropout_rate}: give "
                "0 <= rate < 1"
            )

    @property
    def path(self) -> str:
        """Its name in messages."""
        return "model.text" if isinstance(self, Text) else "model.image"

    @property
    def shape(self) -> Shape:
        """Of its attention."""
        size, heads = self.hidden_size, self.num_heads
        return Shape(size, heads, heads, size // heads)

    def check_attention(self, *, causal: bool, first_tokens: int = 0) -> None:
        """Refuses a window or pattern that does not go with the rest; see `models.checks`."""
        self.attention_pattern.check(
            causal=causal,
            window=self.window,
            dropout_rate=self.attention_dropout_rate,
            path=self.path,
        )
        check_first_tokens(self, first_tokens, self.path)

    def keys_seen(self, length: int, *, causal: bool) -> float:
        """Returns `llm_jax.models.flops.row_keys` of a row of `length`."""
        return row_keys(
            length,
            head_dim=self.shape.head_dim,
            window=self.window,
            pattern=self.attention_pattern,
            causal=causal,
        )

    @property
    def block_weights(self) -> int:
        """Weights of its blocks' matrices."""
        size = self.hidden_size
        return self.num_layers * (4 * size * size + 2 * size * self.mlp_size)


@dataclasses.dataclass(frozen=True)
class Text(Tower):
    """The text tower; `max_positions` is the longest sequence."""

    num_heads: int = 8
    hidden_size: int = 512
    mlp_size: int = 2048
    vocab_size: int = 49408
    max_positions: int = 77

    @property
    def padded_vocab(self) -> int:
        """Rows of the token table: `vocab_size` up to a multiple of 128."""
        return padded_rows(self.vocab_size)


@dataclasses.dataclass(frozen=True)
class Image(Tower):
    """The image tower; `image_size` and `patch_size` are sides in pixels."""

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3

    def __post_init__(self):
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"model.image.image_size {self.image_size} does not divide into "
                f"model.image.patch_size {self.patch_size}: change one"
            )

    @property
    def grid(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch_size


class TextTower(nn.Module):
    """Tokens to one vector each text.

    Attributes:
      tower: its sizes.
      kind, end_id, init_std: as `llm_jax.models.clip.Config`'s.
      features: of the vector.
      attention, scan, dtype: as `llm_jax.models.clip.Transformer`'s.
    """

    tower: Text
    kind: str
    features: int
    end_id: int | None
    init_std: float
    attention: str
    scan: Scan
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens, attention_mask, dropout_key=None, example_ids=None):
        """Returns [B, E] of `tokens [B, T]`."""
        tower, std, clip = self.tower, self.init_std, self.kind == "clip"
        size = tower.hidden_size
        settings = {"init_std": std, "dtype": self.dtype}
        x = Table(tower.padded_vocab, size, "vocab", name="embedding", **settings)(tokens)
        places = Table(tower.max_positions, size, "positions", name="positions", **settings)
        x = x + places(jnp.arange(tokens.shape[1])[None, :])
        queries = None
        if attention_mask is not None:
            # Padding is seen by none but sees the text: SigLIP may read a text at its padding.
            queries = jnp.ones_like(attention_mask)
        mask = Mask(None, queries, attention_mask, causal=clip)
        x = _blocks(self, tower, x, mask, dropout_key, example_ids)
        x = LayerNorm(tower.layer_norm_epsilon, True, self.dtype, name="final_norm")(x)
        if clip:
            sought = jnp.max(tokens, axis=1, keepdims=True)
            if self.end_id is not None:
                sought = self.end_id
            x = x[jnp.arange(x.shape[0]), jnp.argmax(tokens == sought, axis=1)]
        else:
            x = x[:, -1]
        outer, names = (self.features,), ("embed", None)
        return Projection((size,), outer, names, std, not clip, self.dtype, name="projection")(x)


class ImageTower(nn.Module):
    """Images to one vector each; attributes as `TextTower`'s."""

    tower: Image
    kind: str
    features: int
    init_std: float
    attention: str
    scan: Scan
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels, resampled, dropout_key=None, example_ids=None):
        """Returns [B, E] of `pixels [B, C, H, W]`."""
        tower, std, clip = self.tower, self.init_std, self.kind == "clip"
        size, epsilon = tower.hidden_size, tower.layer_norm_epsilon
        patches = PatchEmbedding(
            tower.patch_size, tower.num_channels, size, not clip, std, self.dtype, name="patches"
        )
        x = patches(pixels)
        table = self._vectors("positions", clip + tower.grid**2)
        sides = tuple(side // tower.patch_size for side in pixels.shape[2:])
        places = grid_positions(table, tower.grid, sides, special=int(clip), resampled=resampled)
        if clip:
            token = self._vectors("class_token", 1).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, size)), x], axis=1)
        x = x + places.astype(self.dtype)
        if clip:
            x = LayerNorm(epsilon, True, self.dtype, name="first_norm")(x)
        x = _blocks(self, tower, x, Mask(causal=False), dropout_key, example_ids)
        x = LayerNorm(epsilon, True, self.dtype, name="final_norm")(x[:, 0] if clip else x)
        if not clip:
            return self._pool(x)
        outer, names = (self.features,), ("embed", None)
        return Projection((size,), outer, names, std, False, self.dtype, name="projection")(x)

    def _vectors(self, name, rows):
        start = named(nn.initializers.normal(self.init_std), ("positions", "embed"))
        return self.param(name, start, (rows, self.tower.hidden_size))

    def _pool(self, x):
        """Returns [B, D]: what one learned query reads from `x [B, patches, D]`, and an MLP."""
        tower, std = self.tower, self.init_std
        probe = self._vectors("probe", 1).astype(self.dtype)
        probe = jnp.broadcast_to(probe, (x.shape[0], *probe.shape))
        attend = Attention(
            shape=tower.shape,
            biases=ALL_BIASES,
            qk_norm=False,
            epsilon=tower.layer_norm_epsilon,
            norm_offset=0.0,
            scores=Scores(),
            implementation=self.attention,
            dropout_rate=0.0,
            init_std=std,
            output_std=std,
            dtype=self.dtype,
            name="pool_attention",
        )
        x, _ = attend(probe, Mask(causal=False), memory=x)
        mlp = MLP(
            hidden_size=tower.hidden_size,
            mlp_size=tower.mlp_size,
            activation=tower.activation,
            use_bias=True,
            init_std=std,
            output_std=std,
            dtype=self.dtype,
            name="pool_mlp",
        )
        norm = LayerNorm(tower.layer_norm_epsilon, True, self.dtype, name="pool_norm")
        return (x + mlp(norm(x)))[:, 0]


def _block_config(tower: Tower, init_std: float) -> BlockConfig:
    return BlockConfig(
        shape=tower.shape,
        mlp_size=tower.mlp_size,
        activation=tower.activation,
        norm_epsilon=tower.layer_norm_epsilon,
        attention_dropout_rate=tower.attention_dropout_rate,
        init_std=init_std,
        output_std=init_std,
    )


def _blocks(module, tower: Tower, x, mask: Mask, dropout_key, example_ids):
    """Runs the blocks of a tower, a module in whose scope they are."""
    x = constrain(x, ("batch", "length", "embed"))
    mask = dataclasses.replace(mask, window=tower.window, pattern=tower.attention_pattern)
    blocks = stack(
        Block,
        num_layers=tower.num_layers,
        scan=module.scan,
        name="layers",
        config=_block_config(tower, module.init_std),
        implementation=module.attention,
        dtype=module.dtype,
    )
    context = Context(mask, dropout_key=dropout_key, example_ids=example_ids)
    (x, _), _ = blocks((x, None), Layer(jnp.arange(tower.num_layers)), context)
    return x
