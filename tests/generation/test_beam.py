import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.generation.beam import BeamOptions, beam_search, continue_prompts, decode_sources
from llm_jax.interop import load_pretrained

OPTIONS = {
    "plain": {"num_beams": 4, "num_results": 4},
    "early": {"num_beams": 4, "num_results": 2, "early_stopping": True, "length_penalty": 0.6},
    "never": {"num_beams": 3, "num_results": 3, "early_stopping": "never", "length_penalty": 2.0},
    "short": {"num_beams": 4, "num_results": 4, "length_penalty": -1.0},
}
NEW = 12
# So many that some hypotheses end early and others do not.
ENDS = (1, 5, 9, 12, 14, 22, 27)
FILL = 3


def written(kind, config, tmp_path, seed):
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    network = kind(config).float().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(tmp_path / "model")
    return network, *load_pretrained(tmp_path / "model")


def expected(network, options, **inputs):
    """Returns tokens and scores by `transformers`, [B, num_results, ..]."""
    torch = pytest.importorskip("torch")
    out = network.generate(
        **{name: torch.tensor(value) for name, value in inputs.items()},
        num_beams=options.num_beams,
        num_return_sequences=options.num_results,
        max_new_tokens=NEW,
        length_penalty=options.length_penalty,
        early_stopping=options.early_stopping,
        do_sample=False,
        eos_token_id=list(ENDS),
        pad_token_id=FILL,
        return_dict_in_generate=True,
        output_scores=True,
    )
    prompt = 1 if network.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    tokens = out.sequences[:, prompt:].numpy()
    shape = (-1, options.num_results)
    return tokens.reshape(*shape, tokens.shape[-1]), out.sequences_scores.numpy().reshape(shape)


def check(got, tokens, scores):
    width = tokens.shape[-1]
    np.testing.assert_array_equal(np.asarray(got.tokens)[:, :, :width], tokens)
    assert np.all(np.asarray(got.tokens)[:, :, width:] == FILL)
    assert int(got.lengths.max()) == width
    np.testing.assert_allclose(got.scores, scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_t5_gives_the_beams_of_the_reference(tmp_path, seed):
    transformers = pytest.importorskip("transformers")
    hf = transformers.T5Config(
        vocab_size=29, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    network, config, params = written(transformers.T5ForConditionalGeneration, hf, tmp_path, seed)
    model = models.build(config)
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 29, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    finished = total = 0
    for name, choice in OPTIONS.items():
        options = BeamOptions(max_new_tokens=NEW, **choice)
        tokens, scores = expected(network, options, **inputs)
        got = decode_sources(model, params, inputs, options, end_ids=ENDS, fill_id=FILL)
        check(got, tokens, scores)
        print(name, got.lengths.tolist())
        finished += int(np.sum(np.asarray(got.lengths) < NEW))
        total += got.lengths.size
        assert np.all(np.diff(np.asarray(got.scores), axis=1) <= 0), name
    assert 0 < finished < total


@pytest.mark.parametrize("seed", [0, 1])
def test_gpt2_gives_the_beams_of_the_reference(tmp_path, seed):
    transformers = pytest.importorskip("transformers")
    hf = transformers.GPT2Config(
        vocab_size=29, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=2,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    network, config, params = written(transformers.GPT2LMHeadModel, hf, tmp_path, seed)
    model = models.build(config)
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 29, (3, 6))
    mask = np.ones_like(ids)
    mask[2, :3] = 0
    prompts = [list(row[keep > 0]) for row, keep in zip(ids, mask)]
    finished = total = 0
    for name, choice in OPTIONS.items():
        options = BeamOptions(max_new_tokens=NEW, **choice)
        tokens, scores = expected(network, options, input_ids=ids, attention_mask=mask)
        got = continue_prompts(model, params, prompts, options, end_ids=ENDS, fill_id=FILL)
        check(got, tokens, scores)
        print(name, got.lengths.tolist())
        finished += int(np.sum(np.asarray(got.lengths) < NEW))
        total += got.lengths.size
    assert 0 < finished < total


def test_every_sequence_is_searched_when_the_beams_are_wide_enough():
    """Against all sequences of a table of transitions, scored one by one."""
    vocab, steps, end = 3, 4, 0
    table = jax.random.normal(jax.random.key(0), (vocab, vocab)) * 2

    def step(table, tokens, count, cache):
        return table[tokens], cache

    options = BeamOptions(
        num_beams=40, num_results=5, max_new_tokens=steps, length_penalty=1.0,
        early_stopping="never",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="give fewer beams"):
        beam_search(step, table, table[2][None, :1], {}, options=options, end_ids=(end,))
    got = beam_search(step, table, table[2][None], {}, options=options, end_ids=(end,))
    logs = np.asarray(jax.nn.log_softmax(table, axis=-1))
    found = []

    def walk(last, sequence, score):
        if sequence and (sequence[-1] == end or len(sequence) == steps):
            found.append((score / len(sequence), sequence))
            return
        for token in range(vocab):
            walk(token, [*sequence, token], score + logs[last, token])

    walk(2, [], 0.0)
    found.sort(reverse=True)
    for place, (score, sequence) in enumerate(found[:5]):
        length = int(got.lengths[0, place])
        assert list(np.asarray(got.tokens[0, place, :length])) == sequence
        assert float(got.scores[0, place]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("stopping", "sequence", "score"),
    [(False, [0], np.log(0.6)), (True, [0], np.log(0.6)),
     ("never", [1, 1, 1, 1], (np.log(0.4) + 3 * np.log(0.99)) / 16)],
)  # fmt: skip
def test_only_never_waits_for_what_a_length_penalty_may_still_make_better(
    stopping, sequence, score
):
    table = np.log(np.array([[0.5, 0.5], [0.01, 0.99]], np.float32))

    def step(table, tokens, count, cache):
        return table[tokens], cache

    options = BeamOptions(
        num_beams=1, max_new_tokens=4, length_penalty=2.0, early_stopping=stopping
    )
    first = np.log(np.array([[0.6, 0.4]], np.float32))
    got = beam_search(step, table, first, {}, options=options, end_ids=(0,), fill_id=7)
    assert np.asarray(got.tokens)[0, 0].tolist() == (sequence + [7] * 4)[:4]
    assert int(got.lengths[0, 0]) == len(sequence)
    assert float(got.scores[0, 0]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_results": 5}, "num_results is 5"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
    ],
)
def test_impossible_options_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        BeamOptions(**change)


def test_prompts_that_do_not_fit_are_refused():
    model = models.build(models.parse_config({"family": "gpt2", "max_positions": 16}))
    options = BeamOptions(max_new_tokens=10)
    for prompt, named in (([], "no tokens"), ([1] * 7, "16 positions")):
        with pytest.raises(ConfigError, match=named):
            continue_prompts(model, None, [prompt], options, end_ids=(1,))
