import numpy as np
import pytest

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


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_targets_restore_the_rows(whole_word):
    rows, lengths = rows_of(40, 64)
    lengths[:4] = [1, 2, 30, 0]
    batch = MaskedLM(whole_word=whole_word).batch(rows, lengths, generators(40), VOCABULARY, 64)
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


def test_whole_words_are_hidden_whole_up_to_the_budget():
    rows, lengths = rows_of(200, 64)
    batch = MaskedLM(whole_word=True).batch(rows, lengths, generators(200), VOCABULARY, 64)
    hidden_sizes = []
    for row, picked, weights in zip(rows, batch["picked"], batch["weights"]):
        words, word = [], []
        for place, token in enumerate(row):
            if token < FIRST_TEXT or token % 2 == 0:
                words.append(word)
                word = []
            if token >= FIRST_TEXT:
                word.append(place)
        words = [w for w in [*words, word] if w]
        hidden = set(picked[weights > 0].tolist())
        whole = [w for w in words if set(w) <= hidden]
        assert hidden == {place for w in whole for place in w}
        budget = round(0.15 * 64)
        assert len(hidden) <= budget
        # Nothing that was left would have fitted.
        left = [len(w) for w in words if w not in whole]
        assert min(left) > budget - len(hidden)
        hidden_sizes += map(len, whole)
    assert max(hidden_sizes) > 2
