"""Texts a second of the operations that need no model, on paragraphs of Python's own manual.

python -m tests.data.augmentation.benchmark /usr/share/wordnet
"""

import pydoc_data.topics
import sys
import time

from llm_jax.data.augmentation.text import (
    CharacterNoise,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    WordNet,
    augment,
)


def main() -> None:
    wordnet = WordNet(sys.argv[1])
    parts = [
        part.strip() for text in pydoc_data.topics.topics.values() for part in text.split("\n\n")
    ]
    texts = [part for part in parts if 60 < len(part) < 400]
    words = sum(len(text.split()) for text in texts) / len(texts)
    print(f"{len(texts)} texts of {words:.0f} words")
    for operation in (
        SynonymReplacement(wordnet),
        RandomInsertion(wordnet),
        RandomSwap(),
        RandomDeletion(),
        CharacterNoise(),
    ):
        began = time.perf_counter()
        augment(texts, None, [operation], seed=0, copies=1)
        rate = len(texts) / (time.perf_counter() - began)
        print(f"{type(operation).__name__}: {rate:.0f} a second")


if __name__ == "__main__":
    main()
