"""Leakage between splits: texts that stand, much the same, in training and in evaluation data."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup import EvaluationIndex, NearDuplicates, near_duplicates
from llm_jax.data.dedup.contamination import ngram_for


@dataclasses.dataclass(frozen=True)
class Leak:
    """What two splits share.

    Attributes:
      first, second: their names.
      near_duplicates: of `second`, ascending int64: those with a near-duplicate in `first`, also
        by way of a third text that is near to both.
      shared_runs: of `second`, ascending int64: those with a run of words that stands in `first`
        too, though the whole texts may differ (a question quoted in an article).
    """

    first: str
    second: str
    near_duplicates: np.ndarray
    shared_runs: np.ndarray


def near_duplicate_groups(
    texts: Sequence[str], settings: NearDuplicates = NearDuplicates()
) -> np.ndarray:
    """Returns a group for each text, int64 [n]: near-duplicates have the same one.

    Give them to `llm_jax.data.splits.split` as `groups`, and no near-duplicate lies across splits.

    Args:
      texts: n texts; exact duplicates count too.
      settings: what counts as near, see `llm_jax.data.dedup.NearDuplicates`.
    """
    with tempfile.TemporaryDirectory() as directory:
        return near_duplicates(len(texts), texts.__getitem__, settings, Path(directory))


def leakage(
    splits: Mapping[str, Sequence[str]], settings: NearDuplicates = NearDuplicates()
) -> list[Leak]:
    """Compares every two splits by their texts.

    Runs are of 13 words, 8 to 13 where the second split's items are short, as Brown et al. 2020
    (arXiv:2005.14165, appendix C) have it; see `llm_jax.data.dedup.contamination`.

    Args:
      splits: texts by the split's name, training first: of each pair the later one is reported on.
      settings: what counts as near.

    Raises:
      ConfigError: fewer than two splits.
    """
    if len(splits) < 2:
        raise ConfigError(f"splits are {list(splits)}: give two or more to compare")
    texts = [text for own in splits.values() for text in own]
    ends = np.cumsum([len(own) for own in splits.values()])
    groups = dict(zip(splits, np.split(near_duplicate_groups(texts, settings), ends[:-1])))
    found = []
    for first, second in combinations(splits, 2):
        near = np.flatnonzero(np.isin(groups[second], groups[first]))
        index = EvaluationIndex.of({second: splits[second]}, ngram_for(splits[second]))
        runs = np.unique(index.overlaps(splits[first])[:, 1])
        found.append(Leak(first, second, near, runs))
    return found
