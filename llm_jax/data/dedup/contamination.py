"""Overlap of training documents with evaluation sets by word n-grams.

Brown et al., 2020 ("Language Models are Few-Shot Learners", arXiv:2005.14165), appendix C: a
document and an evaluation item collide if they share a run of 13 words, punctuation, white space
and case aside. For sets of short items the paper takes the 5th percentile of their words in place
of 13, but 8 at least: `ngram_for` gives it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup.shingles import shingle_hashes, word_hashes


@dataclasses.dataclass(frozen=True)
class EvaluationIndex:
    """The n-grams of evaluation sets.

    Attributes:
      ngram: words of a run.
      first_items: the number of each set's first item, by the set's name; items are numbered
        through all sets.
      too_short: bool [items], those with fewer words than `ngram`, which nothing can match.
      grams: uint64 [grams], hashes, ascending, each once.
      ends: int64 [grams], where in `items` those of each n-gram end.
      items: int64, which items have each n-gram, one n-gram's after the other's.
    """

    ngram: int
    first_items: Mapping[str, int]
    too_short: np.ndarray
    grams: np.ndarray
    ends: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, sets: Mapping[str, Sequence[str]], ngram: int = 13) -> "EvaluationIndex":
        """Indexes `sets`, texts by the set's name.

        Raises:
          ConfigError: the n-gram has no words.
        """
        if ngram < 1:
            raise ConfigError(f"ngram is {ngram}: give 1 or more words")
        sizes = [len(items) for items in sets.values()]
        first_items = dict(zip(sets, np.cumsum([0, *sizes]).tolist()))
        grams, items, counts = _grams([text for texts in sets.values() for text in texts], ngram)
        order = np.lexsort((items, grams))
        grams, items = grams[order], items[order]
        fresh = np.ones(len(grams), bool)
        fresh[1:] = (grams[1:] != grams[:-1]) | (items[1:] != items[:-1])
        grams, items = grams[fresh], items[fresh]
        ends = np.flatnonzero(np.append(grams[1:] != grams[:-1], True)[: len(grams)]) + 1
        return cls(ngram, first_items, counts == 0, grams[ends - 1], ends, items)

    def overlaps(self, texts: Sequence[str]) -> np.ndarray:
        """Returns which of `texts` share an n-gram with which items.

        Returns:
          int64 [pairs, 2]: the text's place in `texts` and the item, ascending, each pair once.
        """
        if not len(self.grams):
            return np.zeros((0, 2), np.int64)
        grams, documents, _ = _grams(texts, self.ngram)
        place = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        hit = self.grams[place] == grams
        place, documents = place[hit], documents[hit]
        ends = self.ends[place]
        counts = np.diff(self.ends, prepend=0)[place]
        # Every item of every n-gram that was found.
        index = np.arange(counts.sum()) + np.repeat(ends - np.cumsum(counts), counts)
        pairs = np.stack((np.repeat(documents, counts), self.items[index]), axis=1)
        return np.unique(pairs, axis=0)

    def report(self, pairs: np.ndarray) -> dict[str, dict[str, int]]:
        """Counts what `overlaps` found, its documents numbered through the whole corpus.

        Returns:
          for each set: its `items`, those of them `too_short` to match and those `contaminated`,
          and the `documents` that share an n-gram with any of them.
        """
        bounds = [*self.first_items.values(), len(self.too_short)]
        counts = {}
        for name, first, end in zip(self.first_items, bounds, bounds[1:]):
            own = pairs[(pairs[:, 1] >= first) & (pairs[:, 1] < end)]
            counts[name] = {
                "items": end - first,
                "too_short": int(self.too_short[first:end].sum()),
                "contaminated": len(np.unique(own[:, 1])),
                "documents": len(np.unique(own[:, 0])),
            }
        return counts


def ngram_for(items: Sequence[str]) -> int:
    """Returns the n of the paper for a set: the 5th percentile of its items' words, in 8 .. 13."""
    counts = word_hashes(items)[1]
    return int(np.clip(np.percentile(counts, 5), 8, 13)) if len(counts) else 13


def _grams(texts: Sequence[str], ngram: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns hashes and owners of all n-grams, and how many each text has: a short one none."""
    hashes, counts = word_hashes(texts)
    grams, kept = shingle_hashes(hashes, counts, ngram)
    owners = np.repeat(np.arange(len(texts)), kept)
    whole = counts[owners] >= ngram
    return grams[whole], owners[whole], np.where(counts >= ngram, kept, 0)
