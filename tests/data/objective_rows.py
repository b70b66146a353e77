"""Rows and a vocabulary for the tests of objectives: no tokenizer, ids that are easy to read."""

import numpy as np

from llm_jax.data.objectives import Vocabulary

BOS, EOS, MASK, PREFIX, MIDDLE, SUFFIX = 1, 2, 3, 4, 5, 6
FIRST_SENTINEL, FIRST_TEXT = 10, 110
SIZE = 2000


def vocabulary(size=SIZE):
    """Ids from 110 on are text: even ones begin words, multiples of 10 end lines."""
    ids = np.arange(size)
    symbols = {"<mask>": MASK, "<fim_prefix>": PREFIX, "<fim_middle>": MIDDLE,
               "<fim_suffix>": SUFFIX}  # fmt: skip
    symbols |= {f"<extra_id_{index}>": FIRST_SENTINEL + index for index in range(100)}
    special = ids < FIRST_TEXT
    return Vocabulary(
        bos_id=BOS,
        eos_id=EOS,
        symbols=symbols,
        begins_word=special | (ids % 2 == 0),
        ends_word=special,
        special=special,
        line_ends=~special & (ids % 10 == 0),
    )


def generators(count, seed=0):
    return [
        np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
        for index in range(count)
    ]


def rows_of(count, length, *, documents=3, seed=0):
    """Full rows [count, length] of a stream of documents, and where they are cut at random."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(FIRST_TEXT, SIZE, (count, length)).astype(np.int32)
    for row in rows:
        # Even places for BOS and odd ones for EOS never meet.
        for place in 2 * draw.integers(0, length // 2, documents - 1):
            row[place] = BOS
            if place:
                row[place - 1] = EOS
    return rows, np.full(count, length)
