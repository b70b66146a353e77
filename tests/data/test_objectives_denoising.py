import math

import numpy as np
import pytest

from llm_jax.data.objectives import Denoising
from tests.data.objective_rows import BOS, EOS, FIRST_TEXT, MASK, generators, rows_of, vocabulary

VOCABULARY = vocabulary()


def marked(count, width=119):
    """Rows in which every token tells its place; a line ends at each multiple of 10."""
    rows = np.tile(np.arange(FIRST_TEXT, FIRST_TEXT + width, dtype=np.int32), (count, 1))
    rows[:, 55:57] = [EOS, BOS]
    return rows, np.full(count, width)


def sources(objective, rows, lengths):
    batch = objective.batch(rows, lengths, generators(len(rows)), VOCABULARY, rows.shape[1] + 1)
    names = ("source", "source_mask", "targets", "weights")
    for source, mask, target, weights in zip(*(batch[name] for name in names)):
        source, target = source[mask > 0].tolist(), target[weights > 0].tolist()
        assert source.pop() == EOS
        assert target.pop() == EOS
        yield source, target


def test_the_target_is_the_text():
    rows, lengths = rows_of(20, 63, documents=4)
    for row, (source, target) in zip(rows, sources(Denoising(), rows, lengths)):
        assert target == row[row >= FIRST_TEXT].tolist()
        assert len(source) <= len(target)


def test_sentences_change_places_within_their_document():
    orders = set()
    for source, target in sources(Denoising(mask_rate=0.0), *marked(50)):
        cut = 55  # the first document's tokens come first
        assert sorted(source[:cut]) == target[:cut]
        assert sorted(source[cut:]) == target[cut:]
        assert source != target
        lines = []
        for place, token in enumerate(source):
            first = place in (0, cut) or source[place - 1] + 1 != token
            if first:
                lines.append([])
            lines[-1].append(token)
        for line in lines:
            # A run of neighbours holds whole lines: from behind a line end to a line end.
            whole = [FIRST_TEXT, FIRST_TEXT + 57]
            assert line[0] in whole or (line[0] - 1) % 10 == 0
            assert line[-1] % 10 == 0 or line[-1] in (FIRST_TEXT + 54, FIRST_TEXT + 118)
        orders.add(tuple(source))
        # Putting the lines back in order gives the text.
        assert sorted(source) == target
    assert len(orders) == 50


def spans(source, target):
    """Tokens behind each mask, from the neighbours that stay."""
    marks = [target[0] - 1, *source, target[-1] + 1]
    for place, token in enumerate(marks):
        if token == MASK:
            assert MASK not in (marks[place - 1], marks[place + 1])
            yield marks[place + 1] - marks[place - 1] - 1


def test_infilling_masks_the_rate_in_poisson_spans():
    rows = np.tile(np.arange(FIRST_TEXT, FIRST_TEXT + 399, dtype=np.int32), (300, 1))
    objective = Denoising(permute_sentences=False)
    found = []
    for source, target in sources(objective, rows, np.full(300, 399)):
        sizes = list(spans(source, target))
        assert sum(sizes) == round(0.3 * 399)  # 119.7
        kept = [token for token in source if token != MASK]
        assert kept == sorted(kept)
        assert len(kept) == 399 - 120
        found += sizes
    # One span in 40 is cut to fit the budget, and their number depends on their lengths: a
    # tolerance beside the binomial one.
    total = len(found)
    assert abs(total - 300 * 120 / 3) < 300
    for size in range(8):
        share = math.exp(-3) * 3**size / math.factorial(size)
        got = sum(found_size == size for found_size in found) / total
        assert abs(got - share) < 4.5 * math.sqrt(share / total) + 0.006, size


def test_masks_stand_anywhere():
    rows = np.tile(np.arange(FIRST_TEXT, FIRST_TEXT + 20, dtype=np.int32), (3000, 1))
    objective = Denoising(permute_sentences=False, mask_rate=0.1, mean_span_length=30.0)
    begins = [source.index(MASK) for source, _ in sources(objective, rows, np.full(3000, 20))]
    counts = np.bincount(begins, minlength=19)
    mean = 3000 / 19
    assert len(counts) == 19
    assert np.sum((counts - mean) ** 2 / mean) < 42.3  # chi-square, 18, 0.1%


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("mean", [1.0, 3.0])
def test_a_source_is_never_longer_than_its_target(rate, mean):
    rows, lengths = rows_of(400, 30, documents=2)
    lengths[:] = 4 + np.arange(400) % 27
    for source, target in sources(Denoising(mask_rate=rate, mean_span_length=mean), rows, lengths):
        assert len(source) <= len(target)
