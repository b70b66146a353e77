import itertools
import math
import random
import subprocess
import sys
import zlib
from pydoc_data.topics import topics

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning import score
from llm_jax.data.cleaning.text_statistics import tokenize


def paragraphs():
    """Paragraphs of Python's reference: prose."""
    parts = itertools.chain.from_iterable(text.split("\n\n") for text in topics.values())
    found = sorted({part.strip() for part in parts if 200 < len(part) < 1500})
    random.Random(0).shuffle(found)
    return found[:600]


def spoilt(text, seed):
    """The same words in another order: only 2-grams tell."""
    words = text.split(" ")
    random.Random(seed).shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="module")
def split():
    texts = paragraphs()
    good, rest = texts[:300], texts[300:]
    bad = [spoilt(text, seed) for seed, text in enumerate(rest)]
    return (good[:200], bad[:200]), (good[200:], bad[200:])


@pytest.fixture(scope="module")
def fitted(split):
    return score.fit(*split[0])


def accuracy(linear, good, bad):
    scores = linear.score([*good, *bad])
    labels = np.repeat([True, False], (len(good), len(bad)))
    return np.mean((scores > 0.5) == labels)


def test_prose_is_told_from_shuffled_words_on_texts_held_out(fitted, split):
    assert accuracy(fitted, *split[0]) > 0.97
    assert accuracy(fitted, *split[1]) > 0.8


def test_shuffled_labels_teach_nothing_about_texts_held_out(split):
    (good, bad), held_out = split
    mixed = [*good, *bad]
    random.Random(3).shuffle(mixed)
    linear = score.fit(mixed[:200], mixed[200:])
    assert accuracy(linear, *held_out) < 0.65


def test_prose_is_told_from_shuffled_characters(split):
    (good, _), (held_out, _) = split

    def noise(texts):
        draw = random.Random(0)
        return ["".join(draw.sample(text, len(text))) for text in texts]

    linear = score.fit(good[:50], noise(good[50:100]))
    assert accuracy(linear, held_out, noise(held_out)) > 0.97


def test_scores_are_probabilities_one_for_each_text(fitted, split):
    texts = split[1][0][:5]
    scores = fitted.score([*texts, "", "word"])
    assert scores.dtype == np.float64
    assert scores.shape == (7,)
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.tolist() == [fitted(text) for text in [*texts, "", "word"]]
    assert fitted("") == pytest.approx(1 / (1 + math.exp(-fitted.bias)))
    assert fitted.score([]).shape == (0,)


def test_features_are_the_hashed_grams():
    text = "One two, one TWO one-two don't"
    tokens = [token.lower() for token in tokenize(text)]
    hashes = [zlib.crc32(token.encode()) for token in tokens]
    left, right, mask = int(score._LEFT), int(score._RIGHT), (1 << 64) - 1
    counts = {}
    for bucket in [
        *((one * left & mask) >> 46 for one in hashes),
        *(((a * left & mask) ^ (b * right & mask)) >> 46 for a, b in itertools.pairwise(hashes)),
    ]:
        counts[bucket] = counts.get(bucket, 0) + 1
    buckets, values = score.features(text)
    assert dict.fromkeys(buckets.tolist()) == dict.fromkeys(sorted(counts))
    expected = np.array([1 + math.log(counts[bucket]) for bucket in sorted(counts)])
    np.testing.assert_allclose(values, expected / np.sqrt((expected**2).sum()), rtol=1e-12)
    assert max(counts.values()) == 3
    assert (buckets < score.BUCKETS).all()


def test_kinds_of_unequal_size_weigh_the_same():
    """Of a text that is in both kinds nothing is known: 9 to 1 would be 0.9."""
    linear = score.fit(["the same text"] * 9, ["the same text"], epochs=200)
    assert linear("the same text") == pytest.approx(0.5, abs=0.1)


def test_the_fit_depends_on_its_seed_alone(split, fitted):
    again = score.fit(*split[0])
    np.testing.assert_array_equal(again.weights, fitted.weights)
    assert again.bias == fitted.bias
    assert score.fit(*split[0], seed=1).bias != fitted.bias


def test_the_fit_does_not_depend_on_pythons_hash_seed():
    program = (
        "from llm_jax.data.cleaning.score import fit;"
        "print(repr(fit(['a b c d e', 'x y'], ['e d c b a', 'q']).score(['a b e d', 'q c'])))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_saved_and_loaded_it_gives_the_same_scores(fitted, split, tmp_path):
    path = tmp_path / "score.safetensors"
    fitted.save(path)
    loaded = score.load(path)
    texts = split[1][0][:20]
    np.testing.assert_array_equal(loaded.score(texts), fitted.score(texts))


def test_files_that_hold_no_score_are_refused(tmp_path, fitted):
    from safetensors.numpy import save_file

    with pytest.raises(ConfigError, match="is no file"):
        score.load(tmp_path / "none")
    damaged = tmp_path / "damaged"
    fitted.save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="cannot be read"):
        score.load(damaged)
    another = tmp_path / "another"
    save_file({"weights": np.zeros(3)}, str(another))
    with pytest.raises(ConfigError, match="metadata"):
        score.load(another)
    tensors = {"weights": np.zeros(3), "bias": np.zeros(1)}
    save_file(tensors, str(another), metadata=score._FORMAT)
    with pytest.raises(ConfigError, match="shapes"):
        score.load(another)


def test_both_kinds_are_needed():
    with pytest.raises(ConfigError, match="0 good and 1 bad"):
        score.fit([], ["bad"])


def test_keep_takes_any_callable(fitted, split):
    kept = score.keep(len, 3)
    assert [kept(text) for text in ("ab", "abc", "abcd")] == [False, True, True]
    text = split[1][0][0]
    assert score.keep(fitted, fitted(text))(text)
    assert not score.keep(fitted, np.nextafter(fitted(text), 1))(text)
    with pytest.raises(ValueError, match="nan"):
        score.keep(lambda text: math.nan, 0.5)("text")
