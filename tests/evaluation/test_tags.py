"""Entities: what is counted, and how sure that is."""

import random
import sys

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.evaluation import labels, tags
from llm_jax.evaluation.judge import judge_of
from llm_jax.evaluation.tags import _counts, entities, interval

metrics = pytest.importorskip("seqeval.metrics")


def drawn(count, seed):
    draw = random.Random(seed)
    names = ["O", "O", "B-a", "I-a", "B-b", "I-b"]
    return [[draw.choice(names) for _ in range(draw.randrange(1, 12))] for _ in range(count)]


def test_a_broken_tag_begins_an_entity():
    assert entities(["I-a", "I-a", "I-b", "O", "B-b", "B-b"]) == [
        ("a", 0, 2), ("b", 2, 3), ("b", 4, 5), ("b", 5, 6),
    ]  # fmt: skip


def test_tags_are_not_judged_without_seqeval(monkeypatch):
    assert judge_of("class") is labels
    assert judge_of("tags") is tags
    monkeypatch.setitem(sys.modules, "seqeval", None)
    assert judge_of("class") is labels
    with pytest.raises(ConfigError, match=r"pip install 'llm_jax\[metrics\]'"):
        judge_of("tags")


def test_counts_give_the_f1_of_seqeval_and_its_interval_holds_it():
    right = drawn(200, 0)
    said = [list(one) for one in right]
    for one in said[::3]:
        one[0] = "B-a"
    counts = np.array([_counts(*both) for both in zip(said, right)])
    hits, found, there = counts.sum(axis=0)
    f1 = metrics.f1_score(right, said)
    assert 2 * hits / (found + there) == pytest.approx(f1)
    low, high = interval(counts)
    assert low < f1 < high
    # With one entity a sentence, F1 is the mean of what is right, whose error is known.
    hits = np.arange(500) % 4 > 0
    low, high = interval(np.stack([hits, np.ones(500, int), np.ones(500, int)], axis=1))
    assert high - low == pytest.approx(2 * 1.96 * (0.75 * 0.25 / 500) ** 0.5, rel=0.1)
