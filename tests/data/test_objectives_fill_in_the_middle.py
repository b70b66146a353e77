import itertools

import numpy as np

from llm_jax.data import packing
from llm_jax.data.objectives import FillInTheMiddle, NextToken
from tests.data.objective_rows import (
    BOS,
    EOS,
    FIRST_TEXT,
    MIDDLE,
    PREFIX,
    SUFFIX,
    generators,
    rows_of,
    vocabulary,
)

VOCABULARY = vocabulary()
T = 96


def parts(row):
    """The row's documents, each with the marks that belong to it."""
    starts = [0, *(np.flatnonzero(row[1:] == BOS) + 1), len(row)]
    return [row[first:last].tolist() for first, last in itertools.pairwise(starts)]


def undone(part):
    """Returns (the document as it was, "PSM", "SPM" or "plain")."""
    if PREFIX not in part:
        return part, "plain"
    before, rest = part[: part.index(PREFIX)], part[part.index(PREFIX) + 1 :]
    end = [EOS] if rest[-1] == EOS else []
    rest = rest[: len(rest) - len(end)]
    suffix_at, middle_at = rest.index(SUFFIX), rest.index(MIDDLE)
    suffix, behind = rest[suffix_at + 1 : middle_at], rest[middle_at + 1 :]
    kind = "PSM" if suffix_at else "SPM"
    return before + rest[:suffix_at] + behind + suffix + end, kind


def rows_with_room(count):
    """Rows padded by as much as three symbols for each of three documents take."""
    rows, lengths = rows_of(count, T + 1, documents=3)
    rows[:, -9:] = 0
    return rows, lengths - 9


def test_documents_come_back_and_rates_hold():
    # The real length counts the room, so that nothing is cut; the room's zeros are special.
    rows, lengths = rows_with_room(1500)
    objective = FillInTheMiddle(rate=0.7, spm_rate=0.3)
    batch = objective.batch(rows, lengths + 9, generators(1500), VOCABULARY, T)
    kinds, spm_shares, cuts, mean_cuts = [], [], [], []
    for row, tokens, last in zip(rows, batch["tokens"], batch["targets"][:, -1]):
        got = np.append(tokens, last)
        got = got[got > 0]
        want = row[row > 0]
        assert got.tolist().count(BOS) == want.tolist().count(BOS)
        for changed, document in zip(parts(got), parts(want), strict=True):
            restored, kind = undone(changed)
            assert restored == document
            text = sum(token >= FIRST_TEXT for token in document)
            if text:
                kinds.append(kind)
                # PSM looks like SPM where a cut is at 0, which two uniform ones of n + 1 may be.
                spm_shares.append(0.3 + 0.7 * (1 - (text / (text + 1)) ** 2))
            if kind == "PSM":
                prefix = changed.index(SUFFIX) - changed.index(PREFIX) - 1
                cuts.append(prefix / text)
                # Of the smaller cut, given that it is not 0: P(cut >= k) = ((n + 1 - k) / n)^2.
                at_least = ((text + 1 - np.arange(1, text + 1)) / text) ** 2
                mean_cuts.append(at_least.sum() / text)
    total, changed = len(kinds), len(kinds) - kinds.count("plain")
    assert abs(changed - 0.7 * total) < 4.5 * np.sqrt(total * 0.7 * 0.3)
    share = np.mean(spm_shares)
    assert abs(kinds.count("SPM") - share * changed) < 4.5 * np.sqrt(changed * share * (1 - share))
    assert abs(np.mean(cuts) - np.mean(mean_cuts)) < 4.5 * np.sqrt(1 / 18 / len(cuts))


def test_every_pair_of_cuts_comes():
    row = np.array([BOS, FIRST_TEXT, FIRST_TEXT + 1, EOS, 0, 0, 0, 0], np.int32)
    rows, lengths = np.tile(row, (300, 1)), np.full(300, 7)
    objective = FillInTheMiddle(rate=1.0, spm_rate=0.0)
    batch = objective.batch(rows, lengths, generators(300), VOCABULARY, 7)
    # Of two tokens, three places to cut: six ways to have a prefix, a middle and a suffix.
    assert len({tuple(tokens) for tokens in batch["tokens"].tolist()}) == 6


def test_targets_and_segments_follow_from_the_changed_row():
    rows, lengths = rows_of(40, T + 1, documents=3)
    for cross in (False, True):
        batch = FillInTheMiddle(rate=1.0).batch(
            rows, lengths, generators(40), VOCABULARY, T, cross_document_attention=cross
        )
        whole = np.concatenate([batch["tokens"], batch["targets"][:, -1:]], axis=1)
        assert (whole == PREFIX).any(axis=1).all()
        want = packing.unpack(whole, lengths, bos_id=BOS, cross_document_attention=cross)
        assert batch.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(batch[name], want[name])


def test_a_row_is_cut_to_its_length():
    rows, lengths = rows_of(40, T + 1, documents=4)
    lengths[:20] = 50
    batch = FillInTheMiddle(rate=1.0).batch(rows, lengths, generators(40), VOCABULARY, T)
    assert not batch["tokens"][:20, 50:].any()
    assert not batch["weights"][:20, 49:].any()
    assert batch["tokens"][20:].all()


def test_rate_zero_is_next_token_prediction():
    rows, lengths = rows_of(20, T + 1)
    lengths[3:6] = [0, 2, 40]
    plain = NextToken().batch(rows, lengths, (), VOCABULARY, T)
    batch = FillInTheMiddle(rate=0.0).batch(rows, lengths, generators(20), VOCABULARY, T)
    for name, value in plain.items():
        np.testing.assert_array_equal(batch[name], value)
