"""Groups of beams, against Algorithm 1 of Vijayakumar et al. 2016 spelled out for one row."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.generation.beam import BeamOptions, beam_search

VOCAB, STEPS, END, ROWS = 7, 6, 0, 4
RNG = np.random.default_rng(3)
TABLE = RNG.normal(0, 1.0, (VOCAB, VOCAB)).astype(np.float32)
TABLE[:, END] += 0.5  # so that some groups end long before others
FIRST = RNG.normal(0, 1.0, (ROWS, VOCAB)).astype(np.float32)
PAST = RNG.normal(0, 1.0, VOCAB).astype(np.float32)


def step(table, tokens, count, cache):
    """Logits of the last token and of all before it, which the cache adds up."""
    past = 0.7 * cache["past"] + tokens[None, :, None].astype(jnp.float32)
    return table[tokens] + jnp.sin(past[0] * PAST), {"past": past}


def log_probabilities(row, sequence):
    logits, past = FIRST[row].astype(np.float64), 0.0
    for token in sequence:
        past = 0.7 * past + token
        logits = TABLE[token] + np.sin(past * PAST)
    return logits - np.log(np.sum(np.exp(logits)))


def search_slowly(row, options):
    """Returns all groups' hypotheses, `(score, sequence)`, the best first."""
    size, power = options.group_size, options.length_penalty
    running = [[(0.0, [])] for _ in range(options.num_groups)]
    done = [[] for _ in running]
    searching = [True for _ in running]
    for length in range(1, STEPS + 1):
        taken = collections.Counter()
        for group in range(options.num_groups):
            full = len(done[group]) == size
            searched = searching[group] and not (full and options.early_stopping is True)
            candidates = []
            for score, sequence in running[group]:
                for token, log in enumerate(log_probabilities(row, sequence)):
                    log -= options.diversity_penalty * taken[token]
                    candidates.append((score + log, [*sequence, token]))
            candidates.sort(key=lambda one: -one[0])
            ends = [one[1][-1] == END or length == STEPS for one in candidates]
            running[group] = [o for o, end in zip(candidates, ends) if not end][:size]
            if searched:
                # In the last step no beam goes on: the best are what the group took.
                took = running[group] if length < STEPS else candidates[:size]
                taken.update(one[1][-1] for one in took)
                new = [o for o, end in zip(candidates[:size], ends[:size]) if end]
                done[group] += [(score / length**power, sequence) for score, sequence in new]
                done[group] = sorted(done[group], key=lambda one: -one[0])[:size]
            if running[group] and len(done[group]) == size:
                best = running[group][0][0] / length**power
                searching[group] = searching[group] and best > done[group][-1][0]
    return sorted((one for group in done for one in group), key=lambda one: -one[0])


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("beams", "groups"), [(6, 3), (4, 4), (4, 2), (3, 1)])
def test_groups_are_those_of_the_formula(beams, groups, early):
    penalty = 0.0 if groups == 1 else 0.8
    options = BeamOptions(
        num_beams=beams, num_results=beams, max_new_tokens=STEPS, length_penalty=0.7,
        early_stopping=early, num_groups=groups, diversity_penalty=penalty,
    )  # fmt: skip
    cache = {"past": jnp.zeros((1, ROWS, 1))}
    got = beam_search(
        step, jnp.asarray(TABLE), jnp.asarray(FIRST), cache, options=options, end_ids=(END,)
    )
    for row in range(ROWS):
        for place, (score, sequence) in enumerate(search_slowly(row, options)):
            length = int(got.lengths[row, place])
            assert np.asarray(got.tokens[row, place, :length]).tolist() == sequence
            assert float(got.scores[row, place]) == pytest.approx(score, abs=1e-5)


def test_a_large_penalty_gives_every_group_a_beginning_of_its_own():
    options = BeamOptions(
        num_beams=4, num_results=4, max_new_tokens=STEPS, num_groups=4, diversity_penalty=50.0
    )
    cache = {"past": jnp.zeros((1, ROWS, 1))}
    got = beam_search(
        step, jnp.asarray(TABLE), jnp.asarray(FIRST), cache, options=options, end_ids=()
    )
    for row in np.asarray(got.tokens):
        assert all(len(set(row[:, place])) == 4 for place in range(STEPS))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_groups": 3}, "num_groups is 3: give a divisor of num_beams=4"),
        ({"num_groups": 2}, "diversity_penalty is 0.0: give more than 0"),
        ({"diversity_penalty": 0.5}, "diversity_penalty is 0.5"),
    ],
)
def test_groups_that_cannot_be_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        BeamOptions(num_beams=4, **change)
