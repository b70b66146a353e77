"""An attack on the text itself: words become synonyms, those that raise the loss most."""

from collections.abc import Callable, Container, Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text.edits import Thesaurus
from llm_jax.data.augmentation.text.words import (
    ENGLISH_STOP_WORDS,
    join_words,
    split_words,
    with_case_of,
)


def attack_words(
    judge: Callable[[Sequence[str]], np.ndarray],
    texts: Sequence[str],
    labels: Sequence[int],
    thesaurus: Thesaurus,
    *,
    share: float = 0.15,
    stop_words: Container[str] = ENGLISH_STOP_WORDS,
) -> dict:
    """Returns the accuracy where words are swapped for synonyms, greedily, against the model.

    In each round every word that was not swapped yet is tried with each of its synonyms, and the
    swap with the largest cross-entropy stays, if that is above the text's own. It ends when the
    text is taken for another class, no swap raises the loss, or `share` of the words (at least one)
    are swapped. It is the search of Alzantot et al. 2018 (arXiv:1804.07998) made greedy.

    Args:
      judge: gives logits float [n, classes] of n texts.
      texts, labels: [n] what is attacked, and the classes.
      thesaurus: such as `llm_jax.data.augmentation.text.WordNet`.
      share: of a text's words, above 0 and at most 1.
      stop_words: in lower case, never swapped.

    Returns:
      `accuracy`, `accuracy_under_attack`, and `texts`: what each became.

    Raises:
      ConfigError: another share, or labels of another number.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}: give more than 0, at most 1")
    if len(texts) != len(labels):
        raise ConfigError(f"{len(texts)} texts for {len(labels)} labels: give one for each")
    clean = np.argmax(judge(list(texts)), axis=-1) == np.asarray(labels)
    found = [
        _attacked(judge, text, int(label), thesaurus, share, stop_words) if right else (text, False)
        for text, label, right in zip(texts, labels, clean)
    ]
    return {
        "accuracy": float(clean.mean()),
        "accuracy_under_attack": float(np.mean([right for _, right in found])),
        "texts": [text for text, _ in found],
    }


def _attacked(judge, text, label, thesaurus, share, stop_words) -> tuple[str, bool]:
    """Returns what a text that is right becomes, and whether it still is."""
    words, gaps = split_words(text, thesaurus)
    left = {
        place: [with_case_of(other, word) for other in thesaurus.synonyms(word.lower())]
        for place, word in enumerate(words)
        if word.lower() not in stop_words
    }
    loss = _losses(judge([text]), label)[0]
    for _ in range(max(1, int(share * len(words)))):
        tried = [(place, other) for place, others in left.items() for other in others]
        if not tried:
            break
        swapped = [[*words[:place], other, *words[place + 1 :]] for place, other in tried]
        logits = judge([join_words(one, gaps) for one in swapped])
        losses = _losses(logits, label)
        best = int(np.argmax(losses))
        if losses[best] <= loss:
            break
        words, loss = swapped[best], losses[best]
        del left[tried[best][0]]
        if np.argmax(logits[best]) != label:
            return join_words(words, gaps), False
    return join_words(words, gaps), True


def _losses(logits, label: int) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=-1)) - logits[:, label]
