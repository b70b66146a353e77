"""Mixtures: parts with weights, prepared with one tokenizer, as the rows of one split.

A part's share of the rows is proportional to `weight * tokens ** (1 / temperature)`, or with a
temperature of 0 to its weight alone; 1 is as in the data, more favours what is small (Devlin et al.
2019, multilingual BERT; Raffel et al. 2020, section 3.5.2).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.manifest import Manifest
from llm_jax.data.order import BLOCK, Order, mixed


@dataclasses.dataclass(frozen=True)
class Part:
    """What a part of a mixture is.

    Attributes:
      source, path, text: as of `DataConfig`.
      weight: greater than 0.
      schedule: in place of it (step, weight) pairs, from step 0 on: linear between two, and behind
        the last as there. A weight may be 0 in places.
    """

    source: str
    path: str = ""
    text: str = "text"
    weight: float = 1.0
    schedule: tuple = ()

    def check(self, name: str) -> None:
        """Raises `ConfigError` for weights that are none; `name` is the part's key."""
        if not self.weight > 0 or not np.isfinite(self.weight):
            raise ConfigError(f"{name}.weight is {self.weight}: give more than 0")
        fits = all(
            isinstance(knot, tuple)
            and len(knot) == 2
            and isinstance(knot[0], int)
            and isinstance(knot[1], int | float)
            and 0 <= knot[1] < np.inf
            for knot in self.schedule
        )
        steps = [knot[0] for knot in self.schedule] if fits else []
        if not fits or (steps and (steps[0] or steps != sorted(set(steps)))):
            raise ConfigError(
                f"{name}.schedule is {self.schedule}: give (step, weight) pairs, the steps "
                "ascending from 0 and the weights 0 or more"
            )

    def weights(self, steps) -> np.ndarray:
        """Returns the weight at each of `steps`."""
        if not self.schedule:
            return np.full(np.shape(steps), self.weight)
        return np.interp(steps, *zip(*self.schedule))


class MixedRows:
    """The rows of a mixture's parts, numbered through.

    Attributes:
      parts: rows by the part's name.
      split, manifest, sequence_length, documents, bytes, tokens: of all.
    """

    def __init__(self, parts: dict, split: str, manifest: Manifest):
        """Takes the opened rows of each part; `open_split` is the way in."""
        self.parts, self.split, self.manifest = parts, split, manifest
        self.sequence_length = manifest.sequence_length
        self.documents: int = manifest.documents[split]
        self.bytes: int = manifest.bytes[split]
        self.tokens: int = manifest.tokens[split]
        self.static_copies: int = next(iter(parts.values())).static_copies
        self._begins = np.cumsum([0, *(len(rows) for rows in parts.values())])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{self.tokens} tokens, {len(self)} rows of {self.sequence_length}"

    def take(self, indices, randoms: Sequence[np.random.Generator] = ()) -> dict[str, np.ndarray]:
        """Returns the rows `indices` ([n] integers; -1 gives one of weight 0), as each part does.

        Args:
          indices: of the rows.
          randoms: a generator for each, or none.
        """
        indices = np.asarray(indices)
        of_part = np.searchsorted(self._begins, np.maximum(indices, 0), side="right") - 1
        batch: dict[str, np.ndarray] = {}
        for number, rows in enumerate(self.parts.values()):
            places = np.flatnonzero(of_part == number)
            if not len(places):
                continue
            mine = np.where(indices[places] < 0, -1, indices[places] - self._begins[number])
            for name, values in rows.take(mine, _Chosen(randoms, places)).items():
                full = np.empty((len(indices), *values.shape[1:]), values.dtype)
                batch.setdefault(name, full)[places] = values
        return batch


class _Chosen(Sequence):
    """The generators of some places of a batch, made when they are asked for."""

    def __init__(self, randoms: Sequence[np.random.Generator], places: np.ndarray):
        self._randoms, self._places = randoms, places

    def __len__(self) -> int:
        return len(self._places) if len(self._randoms) else 0

    def __getitem__(self, index: int) -> np.random.Generator:
        return self._randoms[self._places[index]]


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How the parts of a mixture are mixed.

    Attributes:
      parts: by name, in the order of `MixedRows.parts`.
      temperature: 0: weights alone; else `tokens ** (1 / temperature)` are a factor of them.
    """

    parts: dict[str, Part]
    temperature: float

    def shares(self, tokens: dict[str, int], step: float) -> np.ndarray:
        """Returns the parts' shares [parts] of the rows at `step`, their sum 1.

        Args:
          tokens: of each part.
          step: of the run.

        Raises:
          ConfigError: all weights are 0 there, or a share is less than half a row in `BLOCK`.
        """
        sizes = np.array([tokens[name] for name in self.parts], np.float64)
        factors = sizes ** (1 / self.temperature) if self.temperature else np.ones(len(sizes))
        weights = factors * [float(part.weights(step)) for part in self.parts.values()]
        if not weights.any():
            raise ConfigError(f"at step {step:.0f} all weights of data.mixture are 0: raise one")
        shares = weights / weights.sum()
        for name, share in zip(self.parts, shares):
            if 0 < share < 0.5 / BLOCK and not self.parts[name].schedule:
                raise ConfigError(
                    f"data.mixture.{name} has a share of {share:.1g} at step {step:.0f}, less than "
                    f"half a row in {BLOCK}: give it more weight, or leave it out"
                )
        return shares

    def order(self, rows: MixedRows, seed: int, batch_size: int) -> Order:
        """Returns the order of training, see `llm_jax.data.order.mixed`."""
        tokens = {name: part.tokens for name, part in rows.parts.items()}
        knots = [knot[0] for part in self.parts.values() for knot in part.schedule]
        return mixed(
            [len(part) for part in rows.parts.values()],
            lambda place: self.shares(tokens, place / batch_size),
            max(knots, default=0) * batch_size,
            f"order {seed}",
        )
