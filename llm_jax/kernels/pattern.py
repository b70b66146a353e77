"""Which blocks of keys a block of queries sees: the attention patterns that are a model's own."""

import dataclasses
import functools

import numpy as np

from llm_jax.configuration import ConfigError

KINDS = ("full", "block_sparse", "linear")


@dataclasses.dataclass(frozen=True)
class Pattern:
    """`model.attention_pattern`; it is part of the model, for it changes the results.

    "block_sparse" is BigBird's (Zaheer et al. 2020, arXiv:2007.14062): tokens are taken in blocks,
    and a block of queries sees near, global and random blocks of keys. A block is a number of
    slots of the row, so that packed documents share the row's blocks. All layers have the same
    pattern. "linear" is `llm_jax.kernels.linear_attention`. The other keys are of "block_sparse".

    Attributes:
      kind: one of `KINDS`.
      block_size: slots of a block.
      window_blocks: near blocks: in a decoder the own one and those before it; in an encoder the
        own one in their middle, so that it is odd.
      global_blocks: the first so many blocks, seen by all; in an encoder they also see all.
      random_blocks: drawn for each block of queries from those left: in a decoder from those
        before it, whatever the row's length; in an encoder from the whole (padded) row.
      seed: of the drawing.
    """

    kind: str = "full"
    block_size: int = 64
    window_blocks: int = 3
    global_blocks: int = 1
    random_blocks: int = 2
    seed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(
                f"model.attention_pattern.kind is {self.kind!r}: choose one of {', '.join(KINDS)}"
            )
        least = {"block_size": 1, "window_blocks": 1, "global_blocks": 0, "random_blocks": 0}
        for name, smallest in (least | {"seed": 0}).items():
            if getattr(self, name) < smallest:
                raise ConfigError(
                    f"model.attention_pattern.{name} is {getattr(self, name)}: give at least "
                    f"{smallest}"
                )

    @property
    def block_sparse(self) -> bool:
        """Whether only some blocks are seen."""
        return self.kind == "block_sparse"

    @property
    def linear(self) -> bool:
        """Whether there is no softmax."""
        return self.kind == "linear"

    def check(
        self,
        *,
        causal: bool,
        window: int | None,
        dropout_rate: float,
        alibi: bool = False,
        path: str = "model",
    ) -> None:
        """Raises ConfigError where the other choices at `path` do not go with the pattern."""
        if self.block_sparse and not causal and self.window_blocks % 2 == 0:
            raise ConfigError(
                f"{path}.attention_pattern.window_blocks is {self.window_blocks}: in an encoder a "
                "block is in the middle of its window, give an odd number"
            )
        if window and self.kind != "full":
            raise ConfigError(
                f"{path}.window is {window}, but {path}.attention_pattern.kind {self.kind!r} says "
                "what is seen: unset one"
            )
        given = {
            f"{path}.positions='alibi'": alibi,
            f"{path}.attention_dropout_rate": dropout_rate,
        }
        for name, value in given.items():
            if self.linear and value:
                raise ConfigError(
                    f"{path}.attention_pattern.kind 'linear' has no scores for {name}: unset one"
                )

    def visible(self, blocks: int, *, causal: bool) -> np.ndarray:
        """Returns bool [blocks, blocks]: which blocks of keys each block of queries sees."""
        return _visible(self, blocks, causal)

    def visits(self, blocks: int, *, causal: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns `visible` as lists: int32 [blocks], how many, and [blocks, most], which."""
        visible = self.visible(blocks, causal=causal)
        counts = visible.sum(axis=1, dtype=np.int32)
        which = np.argsort(~visible, axis=1, kind="stable")[:, : counts.max()]
        return counts, which.astype(np.int32)


@functools.lru_cache(maxsize=8)
def _visible(pattern: Pattern, blocks: int, causal: bool) -> np.ndarray:
    visible = np.zeros((blocks, blocks), bool)
    for row in range(blocks):
        seen = visible[row]
        last = row + 1 if causal else blocks
        side = pattern.window_blocks - 1 if causal else pattern.window_blocks // 2
        seen[max(0, row - side) : min(last, row + side + 1)] = True
        seen[: min(last, pattern.global_blocks)] = True
        left = np.flatnonzero(~seen[:last])
        random = np.random.default_rng((pattern.seed, row))
        seen[random.permutation(left)[: pattern.random_blocks]] = True
        if row < pattern.global_blocks:
            seen[:last] = True
    visible.setflags(write=False)
    return visible
