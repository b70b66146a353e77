"""Documents of random words with planted near-duplicates whose Jaccard similarity is known."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def vocabulary(random, size=20_000):
    return np.array(
        sorted({"".join(random.choice(LETTERS, random.integers(2, 10))) for _ in range(size)})
    )


def edited(random, words, known, target, ngram=5):
    """Returns `words` with a part made new, so that the Jaccard similarity is about `target`."""
    total = len(words) - ngram + 1
    lost = total - 2 * total * target / (1 + target)
    length = int(max(0, round(lost - (ngram - 1)))) if lost >= 1 else 0
    start = random.integers(0, len(words) - length + 1)
    words = words.copy()
    words[start : start + length] = random.choice(known, length)
    return words


def families(seed, count, *, words=(60, 120), lowest=0.5, largest=4, known=None):
    """Returns (texts in random order, the family of each): copies of one text at 0.5 to 1.0."""
    random = np.random.default_rng(seed)
    known = vocabulary(random) if known is None else known
    texts, owners = [], []
    while len(texts) < count:
        first = random.choice(known, random.integers(*words))
        texts.append(" ".join(first))
        owners.append(len(texts) - 1)
        for _ in range(random.integers(0, largest)):
            copy = edited(random, first, known, random.uniform(lowest, 1.0))
            texts.append(" ".join(copy))
            owners.append(owners[-1])
    order = random.permutation(len(texts))[:count]
    return [texts[i] for i in order], np.array(owners)[order]


def shingle_set(text, ngram=5):
    """The definition, with strings: every n words on end; all of them where there are fewer."""
    words = text.split()
    if not words:
        return set()
    return {tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}


def jaccard(one, other):
    return len(one & other) / len(one | other)


def true_pairs(texts, owners, threshold, ngram=5):
    """Returns the pairs within families at or above the threshold, by Python's sets."""
    sets = [shingle_set(text, ngram) for text in texts]
    members = {}
    for index, owner in enumerate(owners):
        members.setdefault(owner, []).append(index)
    return {
        (one, other)
        for family in members.values()
        for place, one in enumerate(family)
        for other in family[place + 1 :]
        if jaccard(sets[one], sets[other]) >= threshold
    }


def kept(count, pairs):
    """Returns the first document of each one's component, by scipy."""
    one, other = np.array(sorted(pairs), int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    return np.unique(labels, return_index=True)[1][labels]
