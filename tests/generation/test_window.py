"""The ring that a model keeps whose layers all see one window: Mistral, 8 slots for 40 tokens."""

import jax
import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.generation import Draft, Engine, SamplingOptions
from llm_jax.layers.attention import ring_positions
from llm_jax.testing import relative_error

WINDOW, NEW = 8, 40
GREEDY = SamplingOptions(temperature=0, max_new_tokens=NEW)


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
            sliding_window=WINDOW, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
            attn_implementation="eager",
        )
    ).float().eval()  # fmt: skip
    path = tmp_path_factory.mktemp("mistral") / "model"
    network.save_pretrained(path)
    config, params = interop.load_pretrained(path)
    assert config.window == WINDOW
    return network, models.build(config), params


def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(61, size=size).tolist() for size in (3, 29, 9, 8)]


def test_the_engine_writes_what_transformers_writes(mistral):
    torch = pytest.importorskip("torch")
    network, model, params = mistral
    results = Engine(model, params).generate(prompts(), GREEDY)
    for prompt, result in zip(prompts(), results):
        output = network.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        assert list(result.tokens) == output[0, len(prompt) :].tolist()
        assert len(set(result.tokens)) > 3


def test_logits_equal_the_full_forward_however_the_text_is_cut(mistral):
    """Prompts longer than the window, left and right padded, then pieces of one and of three."""
    _, model, params = mistral
    tokens = np.random.default_rng(1).integers(61, size=(3, 48))
    expected = jax.jit(lambda p: model.logits(p, model.hidden(p, tokens)[0]))(params)
    cache = model.init_cache(3, 48)
    assert cache["key"].shape[3] == WINDOW

    @jax.jit
    def run(tokens, places, cache):
        hidden, cache = model.hidden(params, tokens, positions=places, cache=cache)
        return model.logits(params, hidden), cache

    ends = np.array([21, 4, 13])
    places = np.arange(21) - np.array([0, 0, 8])[:, None]  # the last row is left padded
    places = np.where(places < ends[:, None], places, -1)
    for width in (21, *(1, 3, 1, 1, 3, 1) * 2):
        if width != 21:
            places = ends[:, None] + np.arange(width)
            ends = ends + width
        inside = places >= 0
        pieces = np.take_along_axis(tokens, np.maximum(places, 0), axis=1)
        got, cache = run(pieces, places, cache)
        for row in range(3):
            wanted = np.asarray(expected)[row, places[row][inside[row]]]
            assert relative_error(np.asarray(got)[row, inside[row]], wanted) < 1e-5
    assert cache["key"].shape[3] == WINDOW


def test_positions_of_a_ring():
    one = np.asarray(ring_positions(np.array([[5], [2], [-1]]), 4))
    assert one[0].tolist() == [4, 5, 2, 3]
    assert one[1, :3].tolist() == [0, 1, 2]
    assert (one[1, 3], *one[2]) == (-(2**30),) * 5
    several = np.asarray(ring_positions(np.array([[6, 7, -1], [-1, 0, 1]]), 4))
    assert several[0].tolist() == [4, 5, 2, 3, 6, 7, -(2**30)]
    assert several[1].tolist() == [-(2**30)] * 5 + [0, 1]


@pytest.mark.parametrize("own", [False, True], ids=["lookup", "draft"])
def test_guesses_that_were_wrong_leave_the_ring_whole(mistral, own):
    _, model, params = mistral
    expected = Engine(model, params).generate(prompts(), GREEDY)
    draft = Draft(3, model, jax.tree.map(lambda x: x * 0.9, params)) if own else Draft(3)
    engine = Engine(model, params, draft=draft)
    assert engine.generate(prompts(), GREEDY) == expected
    assert 0 < engine.timing.accepted_tokens < engine.timing.drafted_tokens


def test_models_with_whole_layers_keep_everything():
    sizes = {"family": "llama", "num_layers": 4, "num_heads": 2, "hidden_size": 16, "window": 8}
    mixed = {"layer_types": ("sliding_attention", "full_attention")}
    for changes, slots in (({}, 8), (mixed, 64)):
        model = models.build(models.parse_config({**sizes, **changes}))
        assert (model.cache_slots(64), model.cache_slots(5)) == (slots, 5)
