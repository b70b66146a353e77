import subprocess
import sys

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.dedup import NearDuplicates, bands, lsh, minhash, near_duplicates, shingles
from tests.data.dedup import synthetic


def run(texts, tmp_path, settings=None, **kwargs):
    settings = settings or NearDuplicates()
    return near_duplicates(len(texts), texts.__getitem__, settings, tmp_path, **kwargs)


def same_component(kept, pairs):
    return sum(kept[one] == kept[other] for one, other in pairs)


@pytest.fixture(scope="module")
def planted():
    return synthetic.families(0, 3000, known=synthetic.vocabulary(np.random.default_rng(9), 3000))


def test_recall_and_precision_of_planted_pairs(planted, tmp_path):
    texts, owners = planted
    true = synthetic.true_pairs(texts, owners, 0.8)
    kept = run(texts, tmp_path)
    want = synthetic.kept(len(texts), true)
    assert len(true) > 500
    assert same_component(kept, true) >= 0.98 * len(true)
    removed = np.flatnonzero(kept != np.arange(len(texts)))
    assert (kept <= np.arange(len(texts))).all()
    assert (kept[kept] == kept).all()
    assert same_component(want, [(kept[one], one) for one in removed]) >= 0.95 * len(removed)
    assert not list(tmp_path.iterdir())


def test_the_same_as_datasketch_with_exact_verification(tmp_path):
    pytest.importorskip("datasketch")
    from tests.data.dedup.benchmark import datasketch_pairs

    texts, owners = synthetic.families(5, 400)
    settings = NearDuplicates()
    pairs = datasketch_pairs(texts, settings)
    assert len(pairs) > 50
    assert pairs <= synthetic.true_pairs(texts, owners, settings.threshold)
    got = run(texts, tmp_path, settings)
    np.testing.assert_array_equal(got, synthetic.kept(len(texts), pairs))


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_all_documents_in_one_run_give_the_components_of_all_pairs(
    threshold, tmp_path, monkeypatch
):
    # The first document of the run is dissimilar to nearly all, and no pair may be missed for it.
    monkeypatch.setattr(
        bands, "band_keys", lambda signatures, b, r: np.zeros((b, len(signatures)), np.uint64)
    )
    texts, owners = synthetic.families(1, 90, words=(20, 60))
    kept = run(texts, tmp_path, NearDuplicates(threshold=threshold))
    want = synthetic.kept(len(texts), synthetic.true_pairs(texts, owners, threshold))
    assert len(set(want)) < len(want)
    np.testing.assert_array_equal(kept, want)


def test_memory_and_chunks_do_not_change_the_result(planted, tmp_path, monkeypatch):
    texts = planted[0][:400]
    want = run(texts, tmp_path)
    assert (want != np.arange(400)).sum() > 10
    np.testing.assert_array_equal(run(texts, tmp_path, memory_bytes=4000), want)
    for module, name, value in (
        (lsh, "_READ_CHARACTERS", 1),
        (lsh, "_VERIFY_WORDS", 300),
        (lsh, "_ESTIMATE_PAIRS", 3),
        (bands, "_BLOCK", 50),
        (minhash, "_CHUNK", 1000),
        (shingles, "_PIECE", 700),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            np.testing.assert_array_equal(run(texts, tmp_path), want, err_msg=name)


def test_components_join_through_a_document_between(tmp_path):
    known = synthetic.vocabulary(np.random.default_rng(0))[:110]
    first = known[:100]
    between = np.concatenate((first[:94], known[100:105]))
    last = np.concatenate((known[105:110], between[7:]))
    texts = [" ".join(words) for words in (first, last, between)]
    sets = [synthetic.shingle_set(text) for text in texts]
    assert synthetic.jaccard(sets[0], sets[2]) >= 0.8 > synthetic.jaccard(sets[0], sets[1])
    assert synthetic.jaccard(sets[1], sets[2]) >= 0.8
    assert run(texts, tmp_path).tolist() == [0, 0, 0]
    assert run(texts[:2], tmp_path).tolist() == [0, 1]


def test_a_pair_exactly_at_the_threshold_counts(tmp_path):
    words = [f"w{number}" for number in range(22)]
    texts = [" ".join(words[:18]), " ".join(words[:22])]  # 14 of 18 shingles
    assert run(texts, tmp_path, NearDuplicates(threshold=14 / 18)).tolist() == [0, 0]
    assert run(texts, tmp_path, NearDuplicates(threshold=14 / 18 + 1e-9)).tolist() == [0, 1]


def test_few_and_empty_documents(tmp_path):
    assert run([], tmp_path).shape == (0,)
    assert run([""], tmp_path).tolist() == [0]
    assert run(["one document"], tmp_path).tolist() == [0]
    assert run(["same", "same"], tmp_path).tolist() == [0, 0]
    texts = ["", "天地玄黄宇宙洪荒", "...", "a b", "", "天地玄黄、宇宙洪荒。", "A b!", "..."]
    assert run(texts, tmp_path).tolist() == [0, 1, 2, 3, 4, 1, 3, 7]
    assert run(["", "  "], tmp_path).tolist() == [0, 1]


def test_documents_with_the_same_shingles_are_compared_once(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    known = synthetic.vocabulary(random)
    first = random.choice(known, 60)
    other = [" ".join(synthetic.edited(random, first, known, 0.72)) for _ in range(5)]
    texts = [" ".join(first), *other, *[" ".join(first) + "." * n for n in range(1, 300)]]
    calls = []
    jaccard = shingles.jaccard
    monkeypatch.setattr(shingles, "jaccard", lambda *sets: calls.append(1) or jaccard(*sets))
    kept = run(texts, tmp_path)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5, *[0] * 299]
    assert len(calls) < 299 + 20


def test_threshold_decides(planted, tmp_path):
    texts = planted[0][:500]
    removed = [
        (run(texts, tmp_path, NearDuplicates(threshold=t)) != np.arange(500)).sum()
        for t in (0.5, 0.7, 0.9, 1.0)
    ]
    assert removed == sorted(removed, reverse=True)
    assert removed[0] > removed[1] > removed[2] > removed[3]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", 0.0),
        ("threshold", 1.01),
        ("threshold", float("nan")),
        ("num_permutations", 0),
        ("num_permutations", 2),
        ("num_permutations", 5000),
        ("ngram", 0),
    ],
)
def test_settings_out_of_range(key, value):
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        NearDuplicates(**{key: value})


def test_files_are_removed_when_reading_fails(tmp_path):
    def read(document):
        if document == 3:
            raise OSError("gone")
        return "some text"

    with pytest.raises(OSError, match="gone"):
        near_duplicates(5, read, NearDuplicates(), tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_union_find_equals_scipy():
    random = np.random.default_rng(0)
    edges = random.integers(0, 400, (250, 2))
    sets = lsh.UnionFind(400)
    for one, other in edges.tolist():
        sets.join(one, other)
        if one % 7 == 0:
            sets.find(random.integers(0, 400, 20))
    want = synthetic.kept(400, edges.tolist())
    np.testing.assert_array_equal(sets.find(np.arange(400)), want)
    np.testing.assert_array_equal(sets.roots(), want)


MEMORY = """
import resource, sys, tempfile
import numpy as np
from llm_jax.data.dedup import NearDuplicates, near_duplicates

size = int(sys.argv[1])

def read(document):
    random = np.random.default_rng(document - document % 3)
    words = random.integers(0, 10**6, size)
    words[: document % 3] = document
    return " ".join(map(str, words.tolist()))

with tempfile.TemporaryDirectory() as directory:
    kept = near_duplicates(3000, read, NearDuplicates(), directory)
assert (kept == np.arange(3000) // 3 * 3).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text():
    small, large = (
        int(subprocess.check_output([sys.executable, "-c", MEMORY, str(words)]))
        for words in (500, 5000)  # 10 MB and 100 MB
    )
    assert large < 1.1 * small
