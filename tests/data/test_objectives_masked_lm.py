import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import packing
from llm_jax.data.objectives import MaskedLM
from tests.data.objective_rows import (
    BOS,
    FIRST_TEXT,
    MASK,
    SIZE,
    generators,
    rows_of,
    vocabulary,
)

VOCABULARY = vocabulary()


def restored(batch):
    tokens = batch["tokens"].copy()
    row, slot = np.nonzero(batch["weights"])
    tokens[row, batch["picked"][row, slot]] = batch["targets"][row, slot]
    return tokens


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_the_targets_restore_the_rows(unit):
    rows, lengths = rows_of(40, 64)
    lengths[:4] = [1, 2, 30, 0]
    batch = MaskedLM(unit=unit).batch(rows, lengths, generators(40), VOCABULARY, 64)
    real = np.arange(64) < lengths[:, None]
    np.testing.assert_array_equal(restored(batch), np.where(real, rows, 0))
    for picked, weights in zip(batch["picked"], batch["weights"]):
        chosen = picked[weights > 0]
        assert np.all(np.diff(chosen) > 0)
        assert not picked[weights == 0].any()


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4, 0.9])
def test_the_rate_is_exact(rate):
    rows, _ = rows_of(101, 100, documents=1)
    lengths = np.arange(101)
    batch = MaskedLM(mask_rate=rate).batch(rows, lengths, generators(101), VOCABULARY, 100)
    # Devlin et al.: max(1, round(rate * tokens)).
    want = [min(n, max(1, round(n * rate))) for n in range(101)]
    assert batch["weights"].sum(axis=1).tolist() == want


def test_segments_are_those_of_packing():
    rows, _ = rows_of(30, 65, documents=4)
    want = packing.unpack(rows, np.full(30, 65), bos_id=BOS, cross_document_attention=False)
    got = MaskedLM().batch(rows[:, :64], np.full(30, 64), generators(30), VOCABULARY, 64)
    assert want["segment_ids"].max() > 2
    for name in ("segment_ids", "positions"):
        np.testing.assert_array_equal(got[name], want[name])
    whole = MaskedLM().batch(rows[:, :64], np.full(30, 50), generators(30), VOCABULARY, 64, True)
    places = np.arange(64)
    np.testing.assert_array_equal(whole["segment_ids"], np.tile(places < 50, (30, 1)))
    np.testing.assert_array_equal(whole["positions"], np.tile(places * (places < 50), (30, 1)))


def shares(original, tokens, picked, mask_id):
    """Of the picked: how many became the mask, another token, or stayed."""
    masked = picked & (tokens == mask_id)
    changed = picked & ~masked & (tokens != original)
    return np.array([masked.sum(), changed.sum(), (picked & (tokens == original)).sum()])


def masked_rows():
    """400 rows, what became of them, and bool: which places are picked."""
    rows, lengths = rows_of(400, 128, documents=1)
    batch = MaskedLM().batch(rows, lengths, generators(400), VOCABULARY, 128)
    picked = np.zeros(rows.shape, bool)
    row, slot = np.nonzero(batch["weights"])
    picked[row, batch["picked"][row, slot]] = True
    return rows, batch["tokens"], picked


def test_rates_are_those_of_the_paper_at_every_place():
    rows, tokens, picked = masked_rows()
    total = picked.sum()
    assert total == 400 * round(0.15 * 128)
    np.testing.assert_array_equal(tokens[~picked], rows[~picked])
    for count, share in zip(shares(rows, tokens, picked, MASK), (0.8, 0.1, 0.1)):
        assert abs(count - share * total) < 4.5 * np.sqrt(total * share * (1 - share))
    mean = total / 128
    assert abs(picked.sum(axis=0) - mean).max() < 5 * np.sqrt(mean)


def test_rates_are_those_of_transformers_collator():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(SIZE)}, unk_token="w0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token=f"w{MASK}", pad_token="w0"
    )
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    rows, tokens, picked = masked_rows()
    torch.manual_seed(0)
    theirs = collator([{"input_ids": row.tolist()} for row in rows])
    chosen = theirs["labels"].numpy() >= 0
    assert abs(chosen.sum() - picked.sum()) < 4.5 * np.sqrt(rows.size * 0.15 * 0.85)
    ours = shares(rows, tokens, picked, MASK) / picked.sum()
    reference = shares(rows, theirs["input_ids"].numpy(), chosen, MASK) / chosen.sum()
    # Two samples of one distribution: the difference has twice the variance.
    for share, ours_share, theirs_share in zip((0.8, 0.1, 0.1), ours, reference):
        deviation = np.sqrt(2 * share * (1 - share) / picked.sum())
        assert abs(ours_share - theirs_share) < 4.5 * deviation


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_random_tokens_are_text_of_every_kind(rate):
    rows, lengths = rows_of(300, 64, documents=2)
    objective = MaskedLM(mask_rate=0.5, mask_token_rate=rate, random_token_rate=1 - rate)
    batch = objective.batch(rows, lengths, generators(300), VOCABULARY, 64)
    row, slot = np.nonzero(batch["weights"])
    found = batch["tokens"][row, batch["picked"][row, slot]]
    found = found[found != MASK]
    assert FIRST_TEXT <= found.min() < FIRST_TEXT + 5
    assert SIZE - 5 <= found.max() < SIZE
    middle = (FIRST_TEXT + SIZE - 1) / 2
    assert abs(found.mean() - middle) < 5 * (SIZE - FIRST_TEXT) / np.sqrt(12 * len(found))


def words_of(row):
    """The places of each word: even ids of text begin one, marks stand between."""
    words, word = [], []
    for place, token in enumerate(row):
        if token < FIRST_TEXT or token % 2 == 0:
            words.append(word)
            word = []
        if token >= FIRST_TEXT:
            word.append(place)
    return [w for w in [*words, word] if w]


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_hidden_whole_and_each_token_as_often(unit):
    rows, lengths = rows_of(3000, 64)
    objective = MaskedLM(unit=unit, mask_rate=0.2)
    batch = objective.batch(rows, lengths, generators(3000), VOCABULARY, 64)
    hidden = np.zeros(rows.shape, bool)
    row, slot = np.nonzero(batch["weights"])
    hidden[row, batch["picked"][row, slot]] = True
    sizes = []
    for places, own in zip(map(words_of, rows), hidden):
        whole = [word for word in places if own[word].all()]
        assert own.sum() == sum(map(len, whole))  # none in part
        sizes += map(len, whole)
    assert max(sizes) > 3
    # On average the rate, whatever a word's length and wherever it stands.
    text = rows >= FIRST_TEXT
    share = hidden.sum() / (round(0.2 * 64) * 3000)
    assert abs(share - 1) < 0.02
    for place in range(1, 64):
        count = text[:, place].sum()
        assert abs(hidden[:, place].sum() / count - hidden.sum() / text.sum()) < 5 * np.sqrt(
            0.2 * 0.8 / count
        )
    alone = text & np.roll(text & (rows % 2 == 0), -1, axis=1) & (rows % 2 == 0)
    in_one, elsewhere = hidden[alone].mean(), hidden[text & ~alone].mean()
    assert abs(in_one - elsewhere) < 0.02


def test_spans_have_the_paper_s_lengths_and_one_fate():
    # Words of one token each, so that a span's words are its tokens.
    rows, lengths = rows_of(4000, 512, documents=1)
    rows += (rows % 2 == 1) & (rows >= FIRST_TEXT)
    rows = np.minimum(rows, SIZE - 2)
    objective = MaskedLM(unit="span", mask_rate=0.05)
    batch = objective.batch(rows, lengths, generators(4000), VOCABULARY, 512)
    masked = batch["tokens"] == MASK
    picked = np.zeros(rows.shape, bool)
    row, slot = np.nonzero(batch["weights"])
    picked[row, batch["picked"][row, slot]] = True
    # Runs of hidden tokens; with so few of them two seldom touch.
    edges = np.diff(np.pad(picked, ((0, 0), (1, 1))).astype(int), axis=1)
    runs = np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
    # Joshi et al. 2019, section 3.1: geometric with p = 0.2, of those up to 10; 3.8 on average.
    want = 0.2 * 0.8 ** np.arange(10)
    want /= want.sum()
    assert want @ np.arange(1, 11) == pytest.approx(3.8, abs=0.01)
    found = np.bincount(np.minimum(runs, 10), minlength=11)[1:] / len(runs)
    assert abs(found - want)[:5].max() < 0.03
    assert abs(runs.mean() - 3.8) < 0.35
    starts, ends = np.nonzero(edges == 1), np.nonzero(edges == -1)[1]
    mixed = [masked[r, a:b].any() != masked[r, a:b].all() for (r, a), b in zip(zip(*starts), ends)]
    assert np.mean(mixed) < 0.1
    assert 0.75 < masked.sum() / picked.sum() < 0.85


def test_a_word_of_more_than_sixteen_pieces_is_never_hidden():
    rows = np.full((1, 64), FIRST_TEXT + 1, np.int32)  # no even id: one word
    rows[0, 20] = FIRST_TEXT
    rows[0, 30] = FIRST_TEXT  # of ten pieces, between two longer ones
    for seed in range(20):
        batch = MaskedLM(unit="word").batch(
            rows, np.array([64]), generators(1, seed), VOCABULARY, 64
        )
        hidden = batch["picked"][batch["weights"] > 0].tolist()
        assert hidden in ([], list(range(20, 30)))
    assert hidden


@pytest.mark.parametrize("change", [{"unit": "words"}, {"static_copies": -1}])
def test_units_and_copies_that_cannot_be_are_refused(change):
    with pytest.raises(ConfigError, match=f"objective.{next(iter(change))} is"):
        MaskedLM(**change)
