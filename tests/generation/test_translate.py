"""Texts to texts by an encoder-decoder, and there and back."""

import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text import BackTranslation, augment
from llm_jax.generation.beam import BeamOptions
from llm_jax.generation.search import search
from llm_jax.generation.translate import translator
from tests.generation.test_search import Letters, network

OPTIONS = BeamOptions(num_beams=2, max_new_tokens=6)


class Alphabet(Letters):
    @staticmethod
    def encode(text):
        return [ord(letter) - 97 for letter in text]


@pytest.fixture(scope="module")
def models_of_two(tmp_path_factory):
    _, config, params = network("t5", tmp_path_factory.mktemp("t5"))
    return models.build(config), params


def test_each_text_gets_its_own_best_hypothesis(models_of_two):
    model, params = models_of_two
    texts = ["hello", "dog", "world", "cat"]
    got = translator(model, params, Alphabet(), OPTIONS, prefix="to", batch_size=2)(texts)
    prompts = [Alphabet.encode("to" + text) for text in texts]
    found = search(model, params, prompts, OPTIONS, tokenizer=Letters())
    assert got == [row[0].text for row in found]
    assert len(set(got)) > 1
    assert translator(model, params, Alphabet(), OPTIONS)([]) == []


@pytest.mark.slow
def test_back_translation_by_two_models(models_of_two):
    model, params = models_of_two
    there = translator(model, params, Alphabet(), OPTIONS)
    back = translator(model, params, Alphabet(), OPTIONS, prefix="ba")
    more = augment(["hello", "dog"], [0, 1], [BackTranslation(there, back)], seed=0, copies=1)
    assert more.texts == back(there(["hello", "dog"]))


def test_what_does_not_translate_is_refused(models_of_two):
    with pytest.raises(ConfigError, match="model.family 'vit' translates nothing: give one of t5"):
        translator(models.build(models.parse_config({"family": "vit"})), None, Letters())
    with pytest.raises(ConfigError, match="batch_size is 0"):
        translator(*models_of_two, Letters(), batch_size=0)
