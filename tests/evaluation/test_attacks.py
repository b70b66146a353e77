"""Attacks on word vectors: they find what geometry allows, and never less with more."""

import jax
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.labelled_rows import TextRows
from llm_jax.evaluation import attacks
from llm_jax.evaluation.attacks import attack_word_vectors
from tests.losses.test_robust import Linear

COUNT = 40


class Rows(TextRows):
    """Texts of 2 to 5 tokens whose labels the model gets right, but for some."""

    def __init__(self, params):
        rng = np.random.default_rng(1)
        sizes = rng.integers(2, 6, COUNT)
        ends = np.cumsum(sizes)
        ids = rng.integers(0, 9, ends[-1])
        super().__init__(ids, ends, longest=5, padding=0)
        self.margins = []
        self.labels = np.zeros(COUNT, np.int32)
        for row, own in enumerate(np.split(ids, ends[:-1])):
            logits = params["table"][own].mean(0) @ params["out"]
            self.labels[row] = np.argmax(logits) if row % 10 else np.argmin(logits)
            # How far a mean must move, in words' norm: all words move alike, in the best direction.
            best, slope = np.argmax(logits), params["out"].T
            least = min(
                (logits[best] - logits[c]) / np.linalg.norm(slope[best] - slope[c])
                for c in range(3)
                if c != best
            )
            whole = np.linalg.norm(params["table"][own])
            self.margins.append(least * np.sqrt(len(own)) / whole if row % 10 else 0.0)

    def take(self, indices, randoms=(), length=None):
        labels = self.labels[np.maximum(indices, 0)]
        return super().take(indices, randoms, length) | {"labels": labels}


class Plain(Linear):
    """The same without its tanh: the least perturbation that fools it is known."""

    def read(self, params, tokens, mask, *, perturbation=None, **_):
        x = params["table"][tokens]
        x = x if perturbation is None else x + perturbation
        mean = (x * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        return mean @ params["out"]


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    params = {"table": rng.normal(size=(9, 6)), "out": rng.normal(size=(6, 3))}
    return jax.tree.map(np.float32, params), Rows(params)


@pytest.mark.parametrize("epsilon", [0.1, 0.3, 0.6])
def test_it_fools_what_the_geometry_says_and_nothing_else(given, epsilon):
    params, rows = given
    found = attack_word_vectors(Plain(), params, rows, epsilon=epsilon, batch_size=16)
    assert found["accuracy"] == 0.9
    margins = np.array(rows.margins)
    # Between three classes the ascent may run for the farther one: hence a little room above.
    assert np.mean(margins > epsilon) <= found["accuracy_under_attack"]
    assert found["accuracy_under_attack"] <= np.mean(margins > 0.9 * epsilon) + 0.05


def test_more_steps_more_restarts_and_more_room_never_raise_it(given):
    params, rows = given

    def run(**changes):
        return attack_word_vectors(Plain(), params, rows, **{"epsilon": 0.3, "steps": 6} | changes)

    curve = run(restarts=1)["by_step"]
    assert len(curve) == 7
    assert curve[0] == 0.9 > curve[-1] > 0
    assert curve == sorted(curve, reverse=True)
    assert run(restarts=1)["accuracy_under_attack"] == curve[-1]
    assert run(restarts=4)["accuracy_under_attack"] <= curve[-1]
    assert run(limit=10)["rows"] == 10
    with pytest.raises(ConfigError, match="epsilon is 0.0: give more than 0"):
        run(epsilon=0.0)


def test_a_text_that_was_wrong_on_the_way_is_wrong(given, monkeypatch):
    params, rows = given
    wavering = np.ones((3, 16), bool)
    wavering[1, ::2] = False
    monkeypatch.setattr(attacks, "_ascent", lambda *_: wavering)
    run = {"epsilon": 0.1, "steps": 2, "restarts": 1, "batch_size": 16}
    found = attacks.attack_word_vectors(Plain(), params, rows, **run)
    assert found["by_step"] == pytest.approx([0.9, 0.45, 0.45])
    assert found["accuracy_under_attack"] == 0.45
