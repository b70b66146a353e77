import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.splits import folds, split

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def long_tailed(count, num_classes, seed=0):
    weights = 1.0 / np.arange(1, num_classes + 1)
    labels = np.random.default_rng(seed).choice(num_classes, count, p=weights / weights.sum())
    return np.concatenate([labels, np.repeat(np.arange(num_classes), 5)])


def assert_partition(parts, count):
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(count))
    assert all(np.all(np.diff(own) > 0) for own in parts.values())


@pytest.mark.parametrize(
    "shares", [SHARES, {"a": 2, "b": 1}, {"a": 1.0, "b": 0.3, "c": 0.2, "d": 0.01}]
)
def test_classes_and_sizes_keep_the_shares(shares):
    labels = long_tailed(997, 7)
    wanted = np.array(list(shares.values())) / sum(shares.values())
    parts = split(labels, shares, seed=1)
    assert_partition(parts, len(labels))
    assert list(parts) == list(shares)
    counts = np.array([np.bincount(labels[own], minlength=7) for own in parts.values()])
    exact = wanted[:, None] * np.bincount(labels)
    assert counts.min() >= 1
    assert np.all((np.abs(counts - exact) < 2) | (counts == 1))
    if wanted.min() > 0.05:
        assert np.all(np.abs(counts.sum(axis=1) - exact.sum(axis=1)) <= 1)


def test_a_split_follows_from_its_seed_alone():
    labels = long_tailed(500, 5)
    names = np.array(list("abcde"))[labels]
    first = split(labels, SHARES, seed=3)
    for other in (split(labels, SHARES, seed=3), split(names.tolist(), SHARES, seed=3)):
        assert all(np.array_equal(first[name], other[name]) for name in SHARES)
    assert not np.array_equal(first["test"], split(labels, SHARES, seed=4)["test"])
    # Where an example stands says nothing about where it goes.
    taken = np.mean([np.isin(np.arange(525), split(labels, SHARES, seed=s)["test"])
                     for s in range(200)], axis=0)  # fmt: skip
    assert taken.max() < 0.25
    assert taken.min() > 0.02


def grouped(seed, count=3000, num_classes=6):
    """Labels, and groups of unequal sizes that lean to some classes."""
    random = np.random.default_rng(seed)
    sizes = random.geometric(0.1, count)
    groups = np.repeat(np.arange(count), sizes)[:count]
    leaning = random.dirichlet(np.full(num_classes, 0.5), groups.max() + 1)
    labels = np.array([random.choice(num_classes, p=leaning[group]) for group in groups])
    order = random.permutation(count)
    return labels[order], groups[order]


def unevenness(labels, parts, wanted):
    counts = np.array([np.bincount(labels[own], minlength=labels.max() + 1) for own in parts])
    target = wanted[:, None] * np.bincount(labels)
    return np.sum((counts - target) ** 2 / target)


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_together_and_classes_even(seed):
    labels, groups = grouped(seed)
    parts = split(labels, SHARES, groups=[f"author {g}" for g in groups], seed=seed)
    assert_partition(parts, len(labels))
    owners = [set(groups[own]) for own in parts.values()]
    assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]
    wanted = np.array(list(SHARES.values()))
    counts = np.array([np.bincount(labels[own], minlength=6) for own in parts.values()])
    assert np.all(np.abs(counts / np.bincount(labels) - wanted[:, None]) < 0.02)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_dealt_as_evenly_as_by_scikit_learn(seed):
    model_selection = pytest.importorskip("sklearn.model_selection")
    labels, groups = grouped(seed)
    wanted = np.full(5, 0.2)
    ours = split(labels, dict.fromkeys("abcde", 1), groups=groups, seed=seed)
    splitter = model_selection.StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    theirs = [own for _, own in splitter.split(labels, labels, groups)]
    assert unevenness(labels, ours.values(), wanted) <= unevenness(labels, theirs, wanted)


def test_rare_classes_reach_every_split():
    # Three groups of class 1 for three splits: the shares alone would put all into training.
    labels = np.array([0] * 300 + [1] * 3)
    groups = np.arange(303)
    for seed in range(5):
        parts = split(labels, SHARES, groups=groups, seed=seed)
        assert [np.sum(labels[own]) for own in parts.values()] == [1, 1, 1]
        assert [labels[own].sum() for own in split(labels, SHARES, seed=seed).values()] == [1, 1, 1]


@pytest.mark.parametrize("with_groups", [False, True])
def test_folds(with_groups):
    pytest.importorskip("sklearn")
    labels, groups = grouped(0)
    groups = groups if with_groups else None
    found = folds(labels, 5, groups=groups, seed=2)
    assert np.array_equal(found, folds(labels, 5, groups=groups, seed=2))
    assert not np.array_equal(found, folds(labels, 5, groups=groups, seed=3))
    counts = np.array([np.bincount(labels[found == fold]) for fold in range(5)])
    limit = 0.05 * np.bincount(labels) if with_groups else 1
    assert np.all(np.abs(counts - np.bincount(labels) / 5) <= limit)
    if with_groups:
        assert all(len(set(found[groups == group])) == 1 for group in set(groups))


LABELS = [0] * 10 + [1] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LABELS, {}), "shares are {}"),
        ((LABELS, {"a": 1, "b": 0}), "give each split a number above 0"),
        ((LABELS, {"a": 1, "b": float("nan")}), "give each split a number above 0"),
        ((["a", None, "a"], SHARES), "labels mix types, or some are None"),
        (([], SHARES), r"labels have the shape \(0,\)"),
        ((LABELS, SHARES), "class 1 has 2 members .* fewer than 3 splits: merge or drop it"),
        ((["x", "y"], {"a": 1, "b": 1}), "class 'x' has 1 members"),
    ],
)
def test_bad_splits_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        split(*arguments)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0] * 6 + [1] * 6, "2 groups for 3 splits"),
        ([0] * 10, "10 groups for 12 labels"),
        (["big"] * 11 + list("abcd"), "group 'big' has 11 of 15 examples, more than the largest"),
        ([*"abcdefgh", "i", "i", "i", "i"], "class 1 has 1 members .* fewer than 3 splits"),
    ],
)
def test_groups_that_cannot_be_split_are_refused(groups, message):
    labels = LABELS if len(groups) < 15 else [0] * 15
    with pytest.raises(ConfigError, match=message):
        split(labels, {"a": 1, "b": 1, "c": 1}, groups=groups)


def test_a_split_without_a_class_is_refused():
    # Every class lies in two groups, but of three groups one is alone, and lacks a class.
    labels, groups = [0, 1, 0, 2, 1, 2], list("xxyyzz")
    with pytest.raises(ConfigError, match="these groups cannot be split: '.' got no example of"):
        split(labels, {"a": 1, "b": 1}, groups=groups)


def test_bad_folds_are_refused():
    with pytest.raises(ConfigError, match="num_folds is 1: give 2 or more"):
        folds(LABELS, 1)
    with pytest.raises(ConfigError, match="class 1 has 2 members .* fewer than 3 folds"):
        folds(LABELS, 3)
    with pytest.raises(ConfigError, match="2 groups for 3 folds"):
        folds([0] * 12, 3, groups=[0, 1] * 6)
