"""Easy data augmentation (Wei and Zou 2019, arXiv:1901.11196): four edits of words.

`share` is the paper's alpha: 0.05 for up to 2,000 texts, 0.1 from 5,000 on (its table 3). At least
one word is edited, but in `RandomDeletion`.
"""

import dataclasses
from collections.abc import Container, Sequence
from typing import Protocol

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text.augment import Example
from llm_jax.data.augmentation.text.words import (
    ENGLISH_STOP_WORDS,
    is_han,
    join_words,
    split_words,
    with_case_of,
)


class Thesaurus(Protocol):
    """Synonyms of single words: `WordNet`, `Cilin`, or the reader's own."""

    def __contains__(self, word: str) -> bool:
        """Whether it has the word, in lower case."""

    def synonyms(self, word: str) -> Sequence[str]:
        """Returns others of the same meaning, in an order that does not change; may be empty."""


@dataclasses.dataclass(frozen=True)
class SynonymReplacement:
    """Replaces words by a synonym each, drawn anew for every one of them.

    Attributes:
      thesaurus: where synonyms come from; it also tells Chinese words apart.
      share: of the text's words.
      stop_words: in lower case, never replaced.
    """

    thesaurus: Thesaurus
    share: float = 0.1
    stop_words: Container[str] = ENGLISH_STOP_WORDS

    def __post_init__(self):
        check_share(self.share)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts."""
        return [self._replace(example.text, example.random) for example in examples]

    def _replace(self, text, random) -> str:
        words, gaps = split_words(text, self.thesaurus)
        found = _synonyms(words, self.thesaurus, self.stop_words)
        chosen = random.permutation(list(found))[: at_least_one(self.share, words)]
        for place in sorted(chosen.tolist()):
            other = found[place][random.integers(len(found[place]))]
            words[place] = with_case_of(other, words[place])
        return join_words(words, gaps)


@dataclasses.dataclass(frozen=True)
class RandomInsertion:
    """Inserts synonyms of random words of the text at random places; fields as above."""

    thesaurus: Thesaurus
    share: float = 0.1
    stop_words: Container[str] = ENGLISH_STOP_WORDS

    def __post_init__(self):
        check_share(self.share)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts."""
        return [self._insert(example.text, example.random) for example in examples]

    def _insert(self, text, random) -> str:
        words, gaps = split_words(text, self.thesaurus)
        found = list(_synonyms(words, self.thesaurus, self.stop_words).values())
        if not found:
            return text
        for _ in range(at_least_one(self.share, words)):
            own = found[random.integers(len(found))]
            word = own[random.integers(len(own))]
            place = int(random.integers(len(words) + 1))
            space = "" if is_han(word) else " "
            # Before a word, and behind the last one in front of what ends the sentence.
            around = [gaps[place], space] if place < len(words) else [space, gaps[place]]
            words.insert(place, word)
            gaps[place : place + 1] = around
        return join_words(words, gaps)


@dataclasses.dataclass(frozen=True)
class RandomSwap:
    """Swaps two random words, `share` times the number of words; what is between them stays.

    Attributes:
      share: of the text's words.
      lexicon: Chinese words, e.g. a `Cilin`; without it characters are swapped.
    """

    share: float = 0.1
    lexicon: Container[str] = ()

    def __post_init__(self):
        check_share(self.share)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts."""
        return [self._swap(example.text, example.random) for example in examples]

    def _swap(self, text, random) -> str:
        words, gaps = split_words(text, self.lexicon)
        if len(words) < 2:
            return text
        for _ in range(at_least_one(self.share, words)):
            one, other = random.permutation(len(words))[:2].tolist()
            words[one], words[other] = words[other], words[one]
        return join_words(words, gaps)


@dataclasses.dataclass(frozen=True)
class RandomDeletion:
    """Deletes each word with the probability `share`, but never all of them; fields as above."""

    share: float = 0.1
    lexicon: Container[str] = ()

    def __post_init__(self):
        check_share(self.share)

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts."""
        return [self._delete(example.text, example.random) for example in examples]

    def _delete(self, text, random) -> str:
        words, gaps = split_words(text, self.lexicon)
        if not words:
            return text
        kept = random.random(len(words)) >= self.share
        kept[random.integers(len(words))] |= not kept.any()
        left, between = [], gaps[:1]
        for number, (word, keep, gap) in enumerate(zip(words, kept.tolist(), gaps[1:]), 1):
            if keep:
                left.append(word)
                between.append(gap)
            else:
                # One space of the two that stood around the word.
                spare = gap or number == len(words)
                before = between[-1].rstrip() if spare else between[-1]
                between[-1] = before + gap if before or left else gap.lstrip()
        return join_words(left, between)


def check_share(share: float) -> None:
    """Raises ConfigError where a share is none."""
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}: give more than 0 and at most 1")


def at_least_one(share: float, words: list[str]) -> int:
    """Returns `share` of the words' number, rounded, and 1 at least."""
    return max(1, round(share * len(words)))


def _synonyms(words, thesaurus, stop_words) -> dict[int, Sequence[str]]:
    """Returns the synonyms of each place that has any."""
    found = {}
    for place, word in enumerate(words):
        word = word.lower()
        if word not in stop_words and word in thesaurus and (own := thesaurus.synonyms(word)):
            found[place] = own
    return found
