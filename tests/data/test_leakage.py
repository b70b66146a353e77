import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup import NearDuplicates
from llm_jax.data.leakage import leakage, near_duplicate_groups
from llm_jax.data.splits import split
from tests.data.dedup.synthetic import families

CHINESE = "我们今天去公园里散步看花明天再去爬山"
LONG = "the quick brown fox jumps over the lazy dog while seven wizards quietly mix a potion"


def shingles(text, ngram=5):
    words = text.split()
    return {tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}


def test_planted_leaks_are_found_and_nothing_else():
    texts, _ = families(0, 120)
    train, test = texts[:80], texts[80:]
    (leak,) = leakage({"train": train, "test": test})
    assert (leak.first, leak.second) == ("train", "test")

    def near(one, other):
        a, b = shingles(one), shingles(other)
        return len(a & b) / len(a | b) >= 0.8

    # By way of others of the same component.
    component = np.arange(len(texts))
    for i, one in enumerate(texts):
        for j in range(i):
            if near(one, texts[j]):
                component[component == component[i]] = component[j]
    want = [i for i in range(40) if component[80 + i] in component[:80]]
    assert len(want) > 3
    assert leak.near_duplicates.tolist() == want
    runs = [
        i
        for i, text in enumerate(test)
        if any(shingles(text, 13) & shingles(other, 13) for other in train)
    ]
    assert leak.shared_runs.tolist() == runs
    assert set(want) < set(runs)


def test_every_two_splits_and_a_quotation():
    splits = {
        "train": [LONG, "a b c d e f", CHINESE + "。"],
        "validation": ["short", LONG.upper() + "!"],
        "test": [f"{LONG} and more that nobody has {'ever ' * 40} told", CHINESE],
    }
    found = {(leak.first, leak.second): leak for leak in leakage(splits)}
    assert list(found) == [("train", "validation"), ("train", "test"), ("validation", "test")]
    assert found["train", "validation"].near_duplicates.tolist() == [1]
    assert found["train", "validation"].shared_runs.tolist() == [1]
    assert found["train", "test"].near_duplicates.tolist() == [1]
    assert found["train", "test"].shared_runs.tolist() == [0, 1]
    assert found["validation", "test"].near_duplicates.tolist() == []
    assert found["validation", "test"].shared_runs.tolist() == [0]


def test_split_by_near_duplicate_groups_leaks_none():
    texts, _ = families(1, 150)
    labels = np.arange(150) % 3
    shares = {"train": 2, "test": 1}
    settings = NearDuplicates(0.6)
    leaky = split(labels, shares)
    clean = split(labels, shares, groups=near_duplicate_groups(texts, settings))

    def count(parts):
        by_name = {name: [texts[i] for i in own] for name, own in parts.items()}
        (leak,) = leakage(by_name, settings)
        return len(leak.near_duplicates)

    assert count(leaky) > 5
    assert count(clean) == 0


def test_one_split_is_refused():
    with pytest.raises(ConfigError, match=r"splits are \['train'\]: give two or more"):
        leakage({"train": [LONG]})
