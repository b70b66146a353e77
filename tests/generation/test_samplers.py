import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.generation import samplers
from llm_jax.generation.samplers import SamplingOptions

VOCAB = 300


def make_logits(rows, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(size=(rows, VOCAB)).astype(np.float32) * scale


def reference(logits, prompts, options):
    """The rows after transformers' own processors, in the order in which it applies them."""
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers.generation.logits_process")
    out = []
    for row, prompt, o in zip(logits, prompts, options):
        ids, scores = torch.tensor([prompt]), torch.tensor(row[None])
        if o.repetition_penalty != 1:
            scores = hf.RepetitionPenaltyLogitsProcessor(o.repetition_penalty)(ids, scores)
        if o.temperature != 1:
            scores = hf.TemperatureLogitsWarper(o.temperature)(ids, scores)
        if o.top_k:
            scores = hf.TopKLogitsWarper(o.top_k)(ids, scores)
        if o.top_p < 1:
            scores = hf.TopPLogitsWarper(o.top_p)(ids, scores)
        if o.min_p > 0:
            scores = hf.MinPLogitsWarper(o.min_p)(ids, scores)
        out.append(torch.log_softmax(scores, dim=-1).numpy()[0])
    return np.stack(out)


def ours(logits, prompts, options):
    seen = np.zeros(logits.shape, bool)
    for row, prompt in enumerate(prompts):
        seen[row, prompt] = True
    rows, stages = samplers.pack(options, logits.shape[-1])
    process = jax.jit(samplers.process, static_argnames="stages")
    return np.asarray(jax.nn.log_softmax(process(logits, seen, rows, stages=stages), axis=-1))


@pytest.mark.parametrize(
    "options",
    [
        [SamplingOptions(temperature=t) for t in (0.3, 0.8, 1.7)],
        [SamplingOptions(top_k=k) for k in (1, 5, 64, 299, 4000)],
        [SamplingOptions(top_p=p) for p in (0.01, 0.5, 0.9, 0.999)],
        [SamplingOptions(min_p=p) for p in (0.01, 0.3, 1.0)],
        [SamplingOptions(repetition_penalty=r) for r in (0.7, 1.3, 2.0)],
        [
            SamplingOptions(0.7, 50, 0.9, 0.02, 1.2),
            SamplingOptions(),
            SamplingOptions(1.5, 0, 0.5, 0.0, 1.0),
            SamplingOptions(0.5, 3, 1.0, 0.1, 1.0),
        ],
    ],
    ids=["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "together"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_transformers(options, seed):
    logits = make_logits(len(options), seed)
    prompts = np.random.default_rng(seed).integers(VOCAB, size=(len(options), 40)).tolist()
    expected = reference(logits, prompts, options)
    actual = ours(logits, prompts, options)
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=2e-5, atol=2e-5)


def test_a_peaked_row_keeps_its_best_token():
    logits = np.full((1, VOCAB), -50.0, np.float32)
    logits[0, 7] = 50.0
    for options in (
        SamplingOptions(top_p=1e-6),
        SamplingOptions(min_p=1.0),
        SamplingOptions(1e-37),
    ):
        kept = ours(logits, [[0]], [options])
        assert np.isfinite(kept[0, 7])
        assert not np.isnan(kept).any()


def test_draws_follow_the_distribution():
    scipy_stats = pytest.importorskip("scipy.stats")
    draws = 20000
    logits = np.random.default_rng(0).normal(size=(1, 12)).astype(np.float32)
    options = SamplingOptions(temperature=0.7, top_k=6)
    rows, stages = samplers.pack([options] * draws, 12)
    keys = jax.random.split(jax.random.key(3), draws)
    tokens = samplers.sample(np.repeat(logits, draws, 0), None, keys, rows, stages)
    probability = np.sort(np.exp(logits[0].astype(np.float64) / 0.7))[::-1][:6]
    order = np.argsort(-logits[0])[:6]
    counts = np.bincount(np.asarray(tokens), minlength=12)
    assert counts.sum() == counts[order].sum() == draws
    expected = probability / probability.sum() * draws
    assert scipy_stats.chisquare(counts[order], expected).pvalue > 1e-3


def test_greedy_rows_beside_drawn_ones():
    logits = make_logits(4, scale=0.1)  # flat: noise would move the best token
    options = [SamplingOptions(temperature=t) for t in (0.0, 1.0, 0.0, 1.0)]
    rows, stages = samplers.pack(options, VOCAB)
    keys = jax.random.split(jax.random.key(0), 4)
    tokens = np.asarray(samplers.sample(logits, None, keys, rows, stages))
    best = logits.argmax(-1)
    assert tokens[0] == best[0]
    assert tokens[2] == best[2]
    alone = samplers.sample(logits[1:2], None, keys[1:2], *samplers.pack(options[1:2], VOCAB))
    assert tokens[1] == int(alone[0])
    others = samplers.sample(logits, None, jax.random.split(jax.random.key(9), 4), rows, stages)
    assert np.asarray(others)[1] != tokens[1]


def test_values_do_not_recompile():
    traces = []

    def process(logits, rows, stages):
        traces.append(stages)
        return samplers.process(logits, None, rows, stages)

    compiled = jax.jit(process, static_argnums=2)
    logits = jnp.asarray(make_logits(2))
    for temperature, k, p in ((0.5, 33, 0.9), (0.8, 50, 0.95), (1.1, 64, 0.3)):
        rows, stages = samplers.pack([SamplingOptions(temperature, k, p)] * 2, VOCAB)
        compiled(logits, rows, stages)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
    ],
    ids=str,
)
def test_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} is .*: give [^\n]*$"):
        SamplingOptions(**wrong)
