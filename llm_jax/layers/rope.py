"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout.

`RopeScaling` changes the frequencies, so that a model reads further than it was trained on.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError

SCALINGS = ("linear", "dynamic", "yarn", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How the frequencies of a rotary embedding are lowered.

    Attributes:
      kind: "linear": all divided by `factor` (Chen et al. 2023, arXiv:2306.15595).
        "dynamic": the base grows with the row's length, once that is beyond `original_positions`
        ("dynamic NTK"; keys that a cache holds keep the base they were rotated with).
        "yarn": slow frequencies are divided, fast ones kept, with a ramp between, and cosine and
        sine are scaled (Peng et al. 2023, arXiv:2309.00071).
        "llama3": likewise, with a ramp in the frequency itself (Llama 3.1, arXiv:2407.21783).
      factor: at least 1.
      original_positions: the length that the model was trained on; all but "linear" need it.
      low_frequency_factor, high_frequency_factor: of "llama3": waves longer than
        `original_positions / low` are slow, shorter than `original_positions / high` fast.
      beta_fast, beta_slow: of "yarn": frequencies that turn more often than the first over the
        trained length are fast, less often than the second slow.
      truncate: of "yarn": the ramp begins and ends at whole entries.
      attention_factor: of "yarn": scales cosine and sine; None: `0.1 log(factor) + 1`, or with
        both `mscale` and `mscale_all_dim` the ratio of `0.1 m log(factor) + 1` of the two.
    """

    kind: str
    factor: float
    original_positions: int | None = None
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def __post_init__(self):
        if self.kind not in SCALINGS:
            raise ConfigError(
                f"rotary scaling {self.kind!r} is unknown: choose one of {', '.join(SCALINGS)}"
            )
        if self.factor < 1.0:
            raise ConfigError(f"rotary scaling's factor is {self.factor}: give at least 1")
        if self.kind != "linear" and (self.original_positions or 0) < 1:
            raise ConfigError(
                f"rotary scaling {self.kind!r} has original_positions={self.original_positions}: "
                "give the length that the model was trained on"
            )
        if self.kind == "llama3" and self.low_frequency_factor >= self.high_frequency_factor:
            raise ConfigError(
                f"rotary scaling's low_frequency_factor {self.low_frequency_factor} is not below "
                f"its high_frequency_factor {self.high_frequency_factor}"
            )

    @property
    def amplitude(self) -> float:
        """What cosine and sine are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor

        def growth(coefficient):
            return 0.1 * coefficient * math.log(self.factor) + 1.0

        if self.mscale and self.mscale_all_dim:
            return growth(self.mscale) / growth(self.mscale_all_dim)
        return growth(1.0)

    def frequencies(self, positions, head_dim: int, base: float):
        """Returns float32 [head_dim // 2], or [B, 1, head_dim // 2] of "dynamic"."""
        if self.kind == "dynamic":
            trained = self.original_positions
            length = jnp.maximum(jnp.max(positions, axis=-1) + 1, trained).astype(jnp.float32)
            growth = self.factor * length / trained - (self.factor - 1.0)
            return _frequencies(
                base * growth[:, None, None] ** (head_dim / (head_dim - 2)), head_dim
            )
        plain = _frequencies(base, head_dim)
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "llama3":
            low, high = self.low_frequency_factor, self.high_frequency_factor
            turns = self.original_positions * plain / (2 * math.pi)
            kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        else:
            kept = 1.0 - self._yarn_ramp(head_dim, base)
        return plain * kept + plain / self.factor * (1.0 - kept)

    def _yarn_ramp(self, head_dim: int, base: float):
        """Returns, of each entry, which part of it is divided."""

        def entry(turns):
            wave = self.original_positions / (turns * 2 * math.pi)
            return head_dim * math.log(wave) / (2 * math.log(base))

        first, last = entry(self.beta_fast), entry(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        width = last - first or 0.001
        places = jnp.arange(head_dim // 2, dtype=jnp.float32)
        return jnp.clip((places - first) / width, 0.0, 1.0)


def _frequencies(base, head_dim: int):
    return base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def rotary_tables(
    positions, head_dim: int, base: float = 10_000.0, scaling: RopeScaling | None = None
):
    """Returns (cosine, sine), each float32 [B, T, head_dim // 2], for int32 `positions [B, T]`.

    Positions that are known while tracing give constants: XLA's CPU backend would otherwise take
    the sines again for every head of every layer that reads the tables.
    """
    with jax.ensure_compile_time_eval():
        if scaling is None:
            frequency = _frequencies(base, head_dim)
        else:
            frequency = scaling.frequencies(positions, head_dim, base)
        angle = positions[..., None].astype(jnp.float32) * frequency
        if scaling is None or scaling.amplitude == 1.0:
            return jnp.cos(angle), jnp.sin(angle)
        return scaling.amplitude * jnp.cos(angle), scaling.amplitude * jnp.sin(angle)


def rotate(x, tables):
    """Rotates `x [B, T, N, H]` by `rotary_tables`: entry i pairs with entry i + H/2."""
    cosine, sine = (table[:, :, None, :] for table in tables)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
