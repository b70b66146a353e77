"""What holds of every objective of text, so that a batch is a function of (seed, step)."""

import numpy as np
import pytest

from llm_jax.configuration import ConfigError, parse
from llm_jax.data.objectives import OBJECTIVES, MaskedLM, NextSentence
from tests.data.objective_rows import EOS, FIRST_TEXT, SIZE, generators, rows_of, vocabulary

T = 48
VOCABULARY = vocabulary()
TEXT = [cls() for cls in OBJECTIVES.values() if cls.kind == "text"]
EVERY = [*TEXT, MaskedLM(unit="word"), MaskedLM(unit="span"), NextSentence(pair_task="order")]
every = pytest.mark.parametrize(
    "objective", EVERY, ids=[*(o.name for o in TEXT), "word", "span", "order"]
)


def batch_of(objective, rows, lengths, randoms, vocabulary=VOCABULARY, **kwargs):
    if objective.needs_others:  # each row's other one follows from it
        kwargs["others"] = np.where(rows < FIRST_TEXT, rows, SIZE - 1 + FIRST_TEXT - rows), lengths
    return objective.batch(rows, lengths, randoms, vocabulary, T, **kwargs)


@every
@pytest.mark.parametrize("cross", [False, True])
def test_an_example_depends_on_its_own_row_and_generator_alone(objective, cross):
    rows, lengths = rows_of(5, objective.record_length(T))
    lengths[3] = 20
    kept = rows.copy()
    whole = batch_of(objective, rows, lengths, generators(5), cross_document_attention=cross)
    np.testing.assert_array_equal(rows, kept)
    for index in range(5):
        alone = batch_of(
            objective,
            rows[index : index + 1],
            lengths[index : index + 1],
            generators(5)[index : index + 1],
            cross_document_attention=cross,
        )
        assert alone.keys() == whole.keys()
        for name in whole:
            np.testing.assert_array_equal(alone[name][0], whole[name][index], err_msg=name)


@every
def test_another_generator_gives_another_example(objective):
    rows, lengths = rows_of(4, objective.record_length(T))
    first, second = (batch_of(objective, rows, lengths, generators(4, seed)) for seed in (0, 1))
    name = "source" if "source" in first else "tokens"
    same = np.all(first[name] == second[name], axis=1)
    assert same.all() if objective.name == "next_token" else not same.all()


@every
def test_every_length_of_row_fits_and_padding_does_not_matter(objective):
    width = objective.record_length(T)
    full, _ = rows_of(width + 1, width)
    lengths = np.arange(width + 1)
    zeros = np.where(np.arange(width) < lengths[:, None], full, 0)
    batches = [batch_of(objective, rows, lengths, generators(width + 1)) for rows in (full, zeros)]
    sizes = set(objective.lengths(T).values())
    for name, value in batches[0].items():
        np.testing.assert_array_equal(value, batches[1][name], err_msg=name)
        assert value.shape[0] == width + 1
        assert value.shape[1:] in {(), *((size,) for size in sizes)}
        assert value.dtype == (np.float32 if "weights" in name else np.int32), name
        assert value.min() >= 0
    weights = batches[0]["weights"]
    assert not weights[0].any()
    if "source_mask" in batches[0]:  # a softmax over nothing would not be finite
        assert batches[0]["source_mask"][:, 0].all()
    if getattr(objective, "unit", "token") == "token":  # by chance no word is hidden
        assert weights[5:].any(axis=1).all()
    assert not batches[0]["targets"][weights == 0].any() or objective.name in (
        "next_token",
        "fill_in_the_middle",
    )


@every
def test_missing_symbols_are_refused(objective):
    rows, lengths = rows_of(2, objective.record_length(T))
    bare = vocabulary()
    bare.symbols.clear()
    if objective.symbols:
        with pytest.raises(ConfigError, match="no special piece '<"):
            batch_of(objective, rows, lengths, generators(2), bare)
    assert all(name in VOCABULARY.symbols for name in objective.symbols)


@every
def test_marks_and_symbols_are_no_targets_of_corruption(objective):
    rows, lengths = rows_of(50, objective.record_length(T), documents=6)
    batch = batch_of(objective, rows, lengths, generators(50))
    if objective.name == "masked_lm":
        assert batch["targets"][batch["weights"] > 0].min() >= FIRST_TEXT
    elif objective.name == "denoising":
        assert set(batch["targets"][batch["targets"] < FIRST_TEXT]) == {0, EOS}


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("masked_lm", {"mask_rate": 1.0}, "mask_rate is 1.0"),
        ("masked_lm", {"random_token_rate": 0.3}, "0.8 and 0.3"),
        ("span_corruption", {"noise_density": 0.0}, "noise_density is 0.0"),
        ("span_corruption", {"mean_span_length": 0.5}, "mean_span_length is 0.5"),
        ("span_corruption", {"num_sentinels": 0}, "num_sentinels is 0"),
        ("denoising", {"mask_rate": 0.6}, "mask_rate is 0.6"),
        ("denoising", {"mean_span_length": 0.0}, "mean_span_length is 0.0"),
        ("fill_in_the_middle", {"rate": 1.5}, "objective.rate is 1.5"),
        ("fill_in_the_middle", {"spm_rate": -0.1}, "objective.spm_rate is -0.1"),
        ("next_token", {"mask_rate": 0.1}, "no known key"),
    ],
)
def test_impossible_settings_are_refused(name, change, part):
    with pytest.raises(ConfigError, match=part):
        parse(OBJECTIVES[name], change, "config.objective")
