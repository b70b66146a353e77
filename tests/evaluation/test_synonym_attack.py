"""Swaps of words against all swaps there are, on a judge that counts."""

import itertools

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.evaluation.synonym_attack import attack_words

WORTH = {
    "good": 2.0,
    "fine": 0.5,
    "decent": 1.0,
    "film": 0.4,
    "movie": 0.1,
    "bad": -3.0,
    "dull": -1,
}
SYNONYMS = {"good": ["decent", "fine"], "film": ["movie"], "the": ["bad"], "bad": ["dull"]}


class Thesaurus:
    def __contains__(self, word):
        return word in SYNONYMS

    def synonyms(self, word):
        return SYNONYMS.get(word, ())


def judge(texts):
    worth = [sum(WORTH.get(word.strip(".").lower(), 0) for word in t.split()) for t in texts]
    return np.stack([-np.array(worth), np.array(worth)], axis=-1)


def attacked(text, label=1, **more):
    return attack_words(judge, [text], [label], Thesaurus(), **more)


def test_it_ends_at_the_worst_of_all_choices_within_the_share():
    text = "The Good film was a good one."
    found = attacked(text, share=0.3)  # two of seven words
    assert found["texts"] == ["The Fine film was a fine one."]
    assert found["accuracy_under_attack"] == 1
    everything = attacked(text, share=1.0)["texts"][0]
    choices = [[w, *Thesaurus().synonyms(w.lower())] for w in text.strip(".").split()]
    choices[0] = ["The"]  # a stop word
    worst = min(itertools.product(*choices), key=lambda words: judge([" ".join(words)])[0, 1])
    assert everything.lower() == " ".join(worst).lower() + "."


def test_a_text_that_falls_counts_and_is_swapped_no_further():
    found = attacked("good film dull", share=1.0)
    assert found["accuracy"] == 1
    assert found["accuracy_under_attack"] == 0
    assert found["texts"] == ["fine film dull"]
    wrong = attacked("good film", label=0)
    assert (wrong["accuracy"], wrong["texts"]) == (0, ["good film"])
    # A swap that lowers the loss is none.
    assert attacked("dull film", label=0)["texts"] == ["dull film"]


def test_a_word_is_swapped_once():
    worth = {"x y z": 3, "a y z": 2, "c y z": 2.5, "x b z": 2.9, "a b z": 1.5, "c b z": 1}

    class Other(Thesaurus):
        def synonyms(self, word):
            return {"x": ["a", "c"], "y": ["b"], "a": ["c"]}.get(word, ())

    def told(texts):
        values = np.array([worth[text] for text in texts], float)
        return np.stack([-values, values], axis=-1)

    assert attack_words(told, ["x y z"], [1], Other(), share=1.0)["texts"] == ["a b z"]


def test_a_share_is_refused():
    with pytest.raises(ConfigError, match="share is 0: give more than 0, at most 1"):
        attacked("good", share=0)
