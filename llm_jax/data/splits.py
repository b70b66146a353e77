"""Splits of labelled examples: stratified, with groups kept together, by shares or into k folds.

`split` makes training, validation and test sets of any shares; `folds` is scikit-learn's k-fold
(extra `splits`). Both keep the classes' shares, and both are functions of their arguments alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.order import hashed


def split(
    labels: Sequence,
    shares: Mapping[str, float],
    *,
    groups: Sequence | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Divides examples by shares, each class by the same ones.

    Without groups a class's number in a split is its share of the class to within 2, and the
    split's size to within 1, but that each split has every class at least once. With groups, the
    examples of a group go to one split: groups are dealt out one by one, those first whose classes
    are most uneven, each to where it makes the sum over splits and classes of
    (number - wanted)^2 / wanted least (after the greedy order of scikit-learn's
    StratifiedGroupKFold, for any shares).

    Args:
      labels: [n] classes, numbers or strings; all equal where there is nothing to stratify by.
      shares: of each split by its name, above 0; they are scaled to the sum 1.
      groups: [n] numbers or strings: what must not be torn apart (an author, a patient, the
        near-duplicates of `llm_jax.data.leakage.near_duplicate_groups`); None: each alone.
      seed: of the order.

    Returns:
      for each name int64 indices, ascending; together each example once.

    Raises:
      ConfigError: shares that are none, a class with fewer members (or groups) than splits, fewer
        groups than splits, or a group that is larger than any split.
    """
    if not shares or not all(0 < share < np.inf for share in shares.values()):
        raise ConfigError(f"shares are {dict(shares)}: give each split a number above 0")
    labels, classes = _numbered("labels", labels)
    wanted = np.array(list(shares.values()), np.float64)
    wanted /= wanted.sum()
    if groups is None:
        _check_members(labels, classes, np.arange(len(labels)), len(wanted), "splits")
        parts = _deal_examples(labels, wanted, _generator("split", seed))
    else:
        groups, names = _numbered("groups", groups, len(labels))
        _check_groups(groups, names, len(wanted), "splits")
        largest = np.argmax(sizes := np.bincount(groups))
        if sizes[largest] > np.ceil(wanted.max() * len(labels)):
            raise ConfigError(
                f"group {names[largest]!r} has {sizes[largest]} of {len(labels)} examples, more "
                f"than the largest share, {wanted.max():.3g}: cut it, or change the shares"
            )
        _check_members(labels, classes, groups, len(wanted), "splits")
        parts = _deal_groups(labels, groups, wanted, _generator("split", seed))
    _check_parts(labels, classes, parts, list(shares))
    return {name: np.flatnonzero(parts == part) for part, name in enumerate(shares)}


def folds(
    labels: Sequence, num_folds: int, *, groups: Sequence | None = None, seed: int = 0
) -> np.ndarray:
    """Returns the fold of each example, int64 [n] in 0 .. num_folds - 1: fold i is tested on once.

    By scikit-learn's StratifiedKFold, or StratifiedGroupKFold where there are groups.

    Args:
      labels, groups, seed: as of `split`.
      num_folds: 2 or more.

    Raises:
      ConfigError: too few members or groups, as `split`; scikit-learn is not there.
    """
    if num_folds < 2:
        raise ConfigError(f"num_folds is {num_folds}: give 2 or more")
    labels, classes = _numbered("labels", labels)
    members = np.arange(len(labels))
    if groups is not None:
        members, names = _numbered("groups", groups, len(labels))
        _check_groups(members, names, num_folds, "folds")
    _check_members(labels, classes, members, num_folds, "folds")
    try:
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    except ModuleNotFoundError:
        raise ConfigError("folds need scikit-learn: pip install 'llm_jax[splits]'") from None
    by = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = by(num_folds, shuffle=True, random_state=hashed(f"folds {seed}") >> 32)
    found = np.empty(len(labels), np.int64)
    together = None if groups is None else members
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, together)):
        found[held_out] = fold
    _check_parts(labels, classes, found, [f"fold {fold}" for fold in range(num_folds)])
    return found


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=hashed(f"{name} {seed}")))


def _numbered(name: str, values: Sequence, count: int | None = None):
    """Returns int64 [n] numbers from 0, and the distinct values by number."""
    values = np.asarray(values)
    if values.ndim != 1 or not values.size:
        raise ConfigError(f"{name} have the shape {values.shape}: give one for each example")
    if count is not None and len(values) != count:
        raise ConfigError(f"{len(values)} {name} for {count} labels: give one for each example")
    try:
        names, numbers = np.unique(values, return_inverse=True)
    except TypeError:
        raise ConfigError(f"{name} mix types, or some are None: give numbers or strings") from None
    return numbers, names.tolist()


def _check_groups(groups, names, parts: int, what: str) -> None:
    if len(names) < parts:
        raise ConfigError(f"{len(names)} groups for {parts} {what}: give more groups or fewer")


def _check_members(labels, classes, members, parts: int, what: str) -> None:
    """Checks that each class has `parts` distinct members (or groups)."""
    numbers = members.max() + 1
    counts = np.bincount(np.unique(labels * numbers + members) // numbers)
    if counts.min() < parts:
        rarest = int(counts.argmin())
        raise ConfigError(
            f"class {classes[rarest]!r} has {counts[rarest]} members (groups count as one), fewer "
            f"than {parts} {what}: merge or drop it, or make fewer {what}"
        )


def _check_parts(labels, classes, parts, names) -> None:
    """Checks that each part has every class; groups of several classes may forbid it."""
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (parts, labels), 1)
    if (missing := np.argwhere(counts == 0)).size:
        part, class_ = missing[0]
        raise ConfigError(
            f"these groups cannot be split: {names[part]!r} got no example of class "
            f"{classes[class_]!r}; give smaller groups or fewer splits"
        )


def _deal_examples(labels, wanted, random) -> np.ndarray:
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    numbers, owed = [], np.zeros(len(wanted))
    for size in np.bincount(labels).tolist():
        # What rounding took from a split in one class it gets back in the next.
        exact = owed + size * wanted
        own = _rounded(exact, size)
        owed = exact - own
        numbers.append(np.repeat(np.arange(len(wanted)), own))
    parts = np.empty(len(labels), np.int64)
    parts[order] = np.concatenate(numbers)
    return parts


def _rounded(exact: np.ndarray, total: int) -> np.ndarray:
    """Returns whole numbers near `exact`, each at least 1, with the sum `total`."""
    counts = np.maximum(np.floor(exact), 1)
    while counts.sum() < total:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > total:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return counts.astype(np.int64)


def _deal_groups(labels, groups, wanted, random) -> np.ndarray:
    per_group = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(per_group, (groups, labels), 1)
    order = random.permutation(len(per_group))
    order = order[np.argsort(-per_group[order].std(axis=1) - per_group[order].mean(axis=1))]
    target = wanted[:, None] * per_group.sum(axis=0)
    counts = np.zeros_like(target)
    left = (per_group > 0).sum(axis=0)
    chosen = np.empty(len(per_group), np.int64)
    for group in order.tolist():
        own = per_group[group]
        # By how much the sum grows, but for what is the same for every split.
        cost = (own * (2 * counts + own) / target).sum(axis=1)
        # With as few groups of a class left as splits without it, those splits come first.
        without = (counts == 0) & (own > 0)
        urgent = without & (left <= (counts == 0).sum(axis=0))
        need = urgent.sum(axis=1)
        part = np.argmin(np.where(need == need.max(), cost, np.inf))
        counts[part] += own
        left -= own > 0
        chosen[group] = part
    return chosen[groups]
