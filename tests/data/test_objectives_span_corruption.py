import collections
import itertools

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import SpanCorruption
from tests.data.objective_rows import (
    BOS,
    EOS,
    FIRST_SENTINEL,
    FIRST_TEXT,
    SIZE,
    generators,
    rows_of,
    vocabulary,
)

VOCABULARY = vocabulary()


def published_lengths(inputs_length, density=0.15, mean=3.0):
    """Raffel et al.'s `random_spans_helper`, in words: grow the text until the input is full."""

    def of(tokens):
        noise = round(tokens * density)
        spans = round(noise / mean)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs_length
    while of(tokens + 1)[0] <= inputs_length:
        tokens += 1
    return tokens, of(tokens)[1]


@pytest.mark.parametrize(("length", "raw", "targets"), [(512, 568, 114), (256, 284, 58)])
def test_t5s_lengths(length, raw, targets):
    objective = SpanCorruption()
    assert objective.record_length(length) == raw
    assert objective.lengths(length) == {"source": length, "targets": targets}


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.3, 2.0)])
def test_lengths_equal_the_published_arithmetic(density, mean):
    objective = SpanCorruption(noise_density=density, mean_span_length=mean, num_sentinels=500)
    for length in range(60, 600, 7):
        got = objective.record_length(length), objective.lengths(length)["targets"]
        assert got == published_lengths(length, density, mean)


def original(source, target):
    """Puts the target's spans back where their sentinels stand."""
    spans = collections.defaultdict(list)
    for token in target:
        if FIRST_SENTINEL <= token < FIRST_TEXT:
            sentinel = token
        elif token != EOS:
            spans[sentinel].append(token)
    text = []
    for token in source:
        if token != EOS:
            text += spans.pop(token) if token < FIRST_TEXT else [token]
    assert not spans
    return text


def test_source_and_target_hold_the_text_and_fill_their_lengths():
    objective = SpanCorruption()
    width = objective.record_length(96)
    rows, lengths = rows_of(60, width, documents=1)
    rows[30:], _ = rows_of(30, width, documents=5)
    lengths[50:] = np.arange(2, 12)
    batch = objective.batch(rows, lengths, generators(60), VOCABULARY, 96)
    for index in range(60):
        text = rows[index, : lengths[index]]
        text = text[text >= FIRST_TEXT].tolist()
        source = batch["source"][index][batch["source_mask"][index] > 0].tolist()
        real = batch["weights"][index] > 0
        target = batch["targets"][index][real].tolist()
        if len(text) < 2:
            assert not real.any()
            continue
        assert original(source, target) == text
        assert source[-1] == target[-1] == EOS
        assert source.count(EOS) == target.count(EOS) == 1
        sentinels = [t for t in source if FIRST_SENTINEL <= t < FIRST_TEXT]
        assert sentinels == [FIRST_SENTINEL + n for n in range(len(sentinels))]
        assert sentinels == [t for t in target if FIRST_SENTINEL <= t < FIRST_TEXT]
        assert source[0] >= FIRST_TEXT
        assert target[0] == FIRST_SENTINEL
    # A row of text alone fills both sides to the last place.
    assert batch["source_mask"][:30].all()
    assert batch["weights"][:30].all()


def test_each_span_has_a_token_before_it_however_much_is_cut_out():
    objective = SpanCorruption(noise_density=0.8, mean_span_length=1.0)
    text = np.arange(FIRST_TEXT, FIRST_TEXT + 20, dtype=np.int32)
    batch = objective.batch(text[None], np.array([20]), generators(1), VOCABULARY, 20)
    source = batch["source"][0][batch["source_mask"][0] > 0].tolist()
    target = batch["targets"][0][batch["weights"][0] > 0].tolist()
    # Four tokens stay, so there are four spans of the sixteen others.
    assert [token >= FIRST_TEXT for token in source] == [True, False] * 4 + [False]
    assert original(source, target) == text.tolist()


def test_every_cut_is_as_likely_as_another():
    # 10 tokens, 3 of them in 2 spans: 2 ways to cut 3 into 2, and 6 ways to cut 7.
    objective = SpanCorruption(noise_density=0.3, mean_span_length=1.5)
    text = np.arange(FIRST_TEXT, FIRST_TEXT + 10, dtype=np.int32)
    count = 6000
    batch = objective.batch(
        np.tile(text, (count, 1)), np.full(count, 10), generators(count), VOCABULARY, 10
    )
    found = collections.Counter(map(tuple, batch["source"].tolist()))
    ways = len(list(itertools.product(range(2), range(6))))
    assert len(found) == ways
    mean = count / ways
    assert sum((n - mean) ** 2 / mean for n in found.values()) < 31.3  # chi-square, 11, 0.1%


def test_too_few_sentinels_and_no_room_are_refused():
    with pytest.raises(ConfigError, match="makes 28 spans .*num_sentinels is 20"):
        SpanCorruption(num_sentinels=20).record_length(512)
    with pytest.raises(ConfigError, match="sequence_length is 2"):
        SpanCorruption().record_length(2)


def test_marks_are_left_out():
    row = np.array([[EOS, BOS, *range(FIRST_TEXT, FIRST_TEXT + 30), EOS, BOS, SIZE - 1]])
    batch = SpanCorruption().batch(row, np.array([35]), generators(1), VOCABULARY, 40)
    assert BOS not in batch["source"]
    assert BOS not in batch["targets"]
