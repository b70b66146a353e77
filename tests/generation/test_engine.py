import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.generation import Engine, SamplingOptions, engine, generate, steps
from llm_jax.generation.cache import bucket, first_length, grow
from llm_jax.models import build, parse_config
from llm_jax.testing import MODERN_CHOICES

TINY = {
    "num_layers": 2,
    "num_heads": 4,
    "hidden_size": 64,
    "vocab_size": 101,
    "max_positions": 64,
}
MODERN = {**TINY, **MODERN_CHOICES}
GREEDY = SamplingOptions(temperature=0, max_new_tokens=20)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Some thirty programs are compiled here and each runs for milliseconds."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@functools.cache
def build_tiny(modern=False, dtype="float32", **changes):
    model = build(parse_config({**(MODERN if modern else TINY), **changes}), dtype=dtype)

    @jax.jit
    def init():
        params = model.init(jax.random.key(1))
        noise = iter(jax.random.split(jax.random.key(2), 100))
        # Far from initialization, so that each token depends on its whole context.
        return jax.tree.map(
            lambda leaf: leaf + 0.3 * jax.random.normal(next(noise), leaf.shape), params
        )

    return model, init()


def some_prompts(lengths=(1, 7, 12, 5, 3), vocab_size=101, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(vocab_size, size=n).tolist() for n in lengths]


@functools.partial(jax.jit, static_argnums=0)
def full_forward(model, params, tokens):
    return model.logits(params, model.hidden(params, tokens)[0])


def greedy_without_cache(model, params, prompt, count):
    """Each token from a full forward pass; also how far ahead of the second each was."""
    tokens, margins = list(prompt), []
    for _ in range(count):
        padded = np.zeros((1, model.config.max_positions), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(full_forward(model, params, padded))[0, len(tokens) - 1]
        best = np.sort(logits)
        margins.append(best[-1] - best[-2])
        tokens.append(int(logits.argmax()))
    return tuple(tokens[len(prompt) :]), margins


def same_but_for_ties(got, expected, margins):
    for mine, theirs, margin in zip(got, expected, margins, strict=True):
        if mine != theirs:
            assert margin < 1e-4
            return


@pytest.mark.parametrize("modern", [False, True], ids=["gpt2", "modern"])
def test_greedy_equals_the_full_forward_at_batch_one_and_many(modern):
    model, params = build_tiny(modern)
    prompts = some_prompts()
    together = generate(model, params, prompts, GREEDY)
    for prompt, result in zip(prompts, together):
        expected, margins = greedy_without_cache(model, params, prompt, 20)
        same_but_for_ties(result.tokens, expected, margins)
        same_but_for_ties(generate(model, params, [prompt], GREEDY)[0].tokens, expected, margins)
        assert len(set(expected)) > 1
        assert (result.finish_reason, result.prompt_tokens) == ("length", len(prompt))


@pytest.mark.parametrize("modern", [False, True], ids=["gpt2", "modern"])
def test_decode_logits_equal_the_full_forward(modern, monkeypatch):
    model, params = build_tiny(modern, mlp_size=80)  # of its own: these programs hold the spy
    seen = []
    choose = steps.samplers.sample

    def spy(logits, *rest):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), logits, ordered=True)
        return choose(logits, *rest)

    monkeypatch.setattr(steps.samplers, "sample", spy)
    prompts = some_prompts()
    results = generate(model, params, prompts, GREEDY)
    jax.effects_barrier()
    for row, (prompt, result) in enumerate(zip(prompts, results)):
        tokens = np.zeros((1, model.config.max_positions), np.int32)
        tokens[0, : len(prompt) + 20] = prompt + list(result.tokens)
        full = np.asarray(full_forward(model, params, tokens))[0]
        full = full[len(prompt) - 1 : len(prompt) + 19]
        cached = np.stack([logits[row] for logits in seen[: len(full)]])
        assert np.abs(cached - full).max() <= 1e-5 * np.abs(full).max()


def test_greedy_equals_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    models = pytest.importorskip("tests.models.test_gpt2")
    from_torch, SHAPE = models.from_torch, models.TINY

    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=SHAPE["num_layers"],
            n_head=SHAPE["num_heads"],
            n_embd=SHAPE["hidden_size"],
            vocab_size=SHAPE["vocab_size"],
            n_positions=SHAPE["max_positions"],
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    state = {name: value.numpy() for name, value in peer.state_dict().items()}
    model = build(parse_config(SHAPE))
    params = from_torch(state, SHAPE["num_layers"], model.config.padded_vocab)
    prompts = some_prompts((4, 11, 8))
    results = generate(model, params, prompts, dataclasses.replace(GREEDY, max_new_tokens=12))
    for prompt, result in zip(prompts, results):
        expected = peer.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        assert list(result.tokens) == expected[0, len(prompt) :].tolist()


def test_draws_do_not_depend_on_the_batch():
    model, params = build_tiny()
    prompts = some_prompts((3, 16, 9, 1, 14))
    options = SamplingOptions(0.9, 100, 0.95, 0.01, 1.1, max_new_tokens=16)
    everything = generate(model, params, prompts, options, seed=5)
    for batch_size in (1, 4):
        again = generate(model, params, prompts, options, seed=5, batch_size=batch_size)
        assert [r.tokens for r in again] == [r.tokens for r in everything]
    other = generate(model, params, prompts, options, seed=6)
    assert all(a.tokens != b.tokens for a, b in zip(other, everything))
    copies = generate(model, params, [prompts[0]] * 4, options, seed=5)
    assert len({r.tokens for r in copies}) == 4
    assert copies[0].tokens == everything[0].tokens


def test_a_draw_comes_from_seed_request_and_position():
    model, params = build_tiny()
    prompts = some_prompts((3, 16, 9, 1, 14))
    # So hot that the logits do not matter: what is left is the noise.
    hot = SamplingOptions(1e9, 100, 0.9999999, 1e-9, 1.00001, max_new_tokens=16)
    for index, result in enumerate(generate(model, params, prompts, hot, seed=7)):
        key = jax.random.fold_in(jax.random.key(7), index)
        positions = len(prompts[index]) + np.arange(16)
        noise = [jax.random.gumbel(jax.random.fold_in(key, place), (101,)) for place in positions]
        expected = [int(jnp.argmax(row)) for row in noise]
        assert sum(a != b for a, b in zip(result.tokens, expected)) <= 1  # top_k=100 drops one


def test_rows_keep_their_own_options():
    model, params = build_tiny()
    prompt = some_prompts((6,))[0]
    drawn = SamplingOptions(1.0, max_new_tokens=9)
    short = SamplingOptions(0, repetition_penalty=1.8, max_new_tokens=4)
    mixed = generate(model, params, [prompt] * 3, [GREEDY, drawn, short], seed=2)
    assert [len(r.tokens) for r in mixed] == [20, 9, 4]
    assert mixed[0].tokens == generate(model, params, [prompt], GREEDY)[0].tokens
    assert mixed[1].tokens == generate(model, params, [prompt] * 2, drawn, seed=2)[1].tokens
    assert mixed[2].tokens == generate(model, params, [prompt], short)[0].tokens


def test_repetition_penalty_sees_prompt_and_new_tokens():
    model, params = build_tiny()
    options = SamplingOptions(0, repetition_penalty=1e6, max_new_tokens=50)
    prompt = some_prompts((10,))[0]
    (result,) = generate(model, params, [prompt], options)
    everything = list(set(prompt)) + list(result.tokens)
    assert len(set(everything)) == len(everything)


def test_the_cache_grows_without_changing_the_text(monkeypatch):
    model, params = build_tiny(modern=True, max_positions=100)
    prompts = some_prompts((4, 15))
    options = dataclasses.replace(GREEDY, max_new_tokens=80)
    expected = generate(model, params, prompts, options)
    lengths = []
    monkeypatch.setattr("llm_jax.generation.cache.FIRST_LENGTH", 32)
    monkeypatch.setattr(engine, "grow", lambda *a: (lengths.append(a[2]), grow(*a))[1])
    grown = generate(model, params, prompts, options)
    assert [r.tokens for r in grown] == [r.tokens for r in expected]
    assert lengths == [64, 100]


def test_sizes_are_few():
    assert [bucket(n, 100) for n in (1, 16, 17, 64, 65, 100)] == [16, 16, 32, 64, 100, 100]
    assert first_length(longest_prompt=10, total=30, largest=1024) == 32
    assert first_length(longest_prompt=10, total=9000, largest=10**6) == 512
    assert first_length(longest_prompt=600, total=9000, largest=10**6) == 1024
    assert first_length(longest_prompt=600, total=700, largest=640) == 640


def test_end_tokens_end_a_row():
    model, params = build_tiny()
    prompts = some_prompts((5, 9))
    plain = generate(model, params, prompts, GREEDY)
    end = plain[0].tokens[4]
    results = generate(model, params, prompts, GREEDY, end_ids=[end])
    first = plain[0].tokens.index(end)
    assert results[0].tokens == plain[0].tokens[:first]
    assert results[0].finish_reason == "eos"
    if end not in plain[1].tokens:
        assert results[1] == plain[1]


def test_the_last_position_ends_a_row():
    model, params = build_tiny()
    prompts = some_prompts((60, 63, 10))
    results = generate(model, params, prompts, dataclasses.replace(GREEDY, max_new_tokens=500))
    assert [len(r.tokens) for r in results] == [4, 1, 54]
    assert {r.finish_reason for r in results} == {"length"}
    expected, margins = greedy_without_cache(model, params, prompts[0], 4)
    same_but_for_ties(results[0].tokens, expected, margins)


def test_one_program_for_all_lengths_of_a_bucket():
    model, params = build_tiny(mlp_size=72)  # of its own: no other test's programs
    sampler = Engine(model, params)
    before = steps.decode_step._cache_size()
    for length, temperature in ((2, 0.5), (9, 0.7), (14, 1.3)):
        options = SamplingOptions(temperature, max_new_tokens=18)
        sampler.generate(some_prompts((length, 3)), options, seed=length)
    assert steps.decode_step._cache_size() == before + 1


def test_bfloat16_rounds_nothing_else_than_the_model_does():
    model, params = build_tiny(dtype="bfloat16")
    prompt = some_prompts((12,))[0]
    (result,) = generate(model, params, [prompt], dataclasses.replace(GREEDY, max_new_tokens=6))
    weights, layout = steps.lay_out(model, params)
    back = steps.together(weights, layout)
    tokens = np.array([prompt + list(result.tokens)])
    hidden = jax.jit(lambda params: model.hidden(params, tokens)[0])
    np.testing.assert_array_equal(hidden(params), hidden(back))
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {
        np.dtype("float32"),
        jnp.dtype("bfloat16"),
    }


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[3], []], "prompt 1 has no tokens"),
        ([[1] * 64], "prompt 0 has 64 tokens and the model 64 positions: give at most 63"),
        ([[1, 101]], "prompt 0 has a token outside 0 .. 100"),
        ([[-1]], "prompt 0 has a token outside"),
    ],
)
def test_prompts_that_cannot_be_are_refused(prompts, message):
    model, params = build_tiny()
    with pytest.raises(ConfigError, match=message):
        generate(model, params, prompts, GREEDY)
    with pytest.raises(ConfigError, match="give a tokenizer"):
        generate(model, params, [[1]], GREEDY, stop=["x"])


def test_no_prompts_no_texts():
    model, params = build_tiny()
    assert generate(model, params, [], GREEDY) == []
