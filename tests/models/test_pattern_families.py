"""The attention choices of images, pairs and encoder-decoders, against masks written down here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.kernels.pattern import Pattern
from llm_jax.layers import attention as layer
from llm_jax.models import encoder_decoder
from llm_jax.models.flops import row_keys
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.parallel.sharding import tree_shardings
from llm_jax.testing import relative_error

SOURCE, TARGET, VOCAB = 30, 22, 97
SPARSE = {"kind": "block_sparse", "block_size": 4, "window_blocks": 1, "random_blocks": 1}
CHOICES = {
    "window": {"window": 5},
    "block_sparse": {"attention_pattern": SPARSE},
    "linear": {"attention_pattern": {"kind": "linear"}},
    "alibi": {"positions": "alibi"},
}
WIDTHS = {"num_heads": 4, "hidden_size": 32, "mlp_size": 48}
STACKS = WIDTHS | {"num_encoder_layers": 2, "num_decoder_layers": 2, "vocab_size": VOCAB}
TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
TOWER = WIDTHS | {"num_layers": 2}
IMAGE = {"image_size": 20, "patch_size": 4}
FAMILIES = {
    "t5": STACKS | {"head_dim": 8},
    "bart": STACKS | TOKENS | {"max_positions": 40},
    "seq2seq": STACKS | {"max_positions": 40},
    "whisper": STACKS | TOKENS | {
        "max_positions": 40, "num_mel_bins": 8, "source_positions": SOURCE,
    },
    "vit": TOWER | IMAGE | {"pooler": "none", "head": "pixels", "mask_token": True},
    "clip": {
        "text": TOWER | {"vocab_size": VOCAB, "max_positions": 40}, "image": TOWER | IMAGE,
        "projection_size": 16, "end_id": 3,
    },
    "siglip": {
        "family": "clip", "kind": "siglip", "text": TOWER | {"vocab_size": VOCAB,
        "max_positions": 40}, "image": TOWER | IMAGE, "projection_size": None,
    },
}  # fmt: skip
IMPOSSIBLE = {("t5", "linear"), ("clip", "window")}
WITH_ALIBI = ("bart", "seq2seq")
PAIRS = [
    (family, choice)
    for family in FAMILIES
    for choice in CHOICES
    if (family, choice) not in IMPOSSIBLE and (choice != "alibi" or family in WITH_ALIBI)
]


def configured(family, choice=None, **changes):
    config = {"family": family} | FAMILIES[family]
    more = CHOICES.get(choice, {})
    if config["family"] == "clip":
        more = {tower: config[tower] | more for tower in ("text", "image")}
    return models.parse_config(config | more | changes)


@functools.cache
def built(family, choice=None):
    model = models.build(configured(family, choice))
    rng = np.random.default_rng(1)
    params = jax.jit(model.init)(jax.random.key(0))
    return model, jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)


@functools.cache
def inputs_of(family):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.integers(4, VOCAB, shape)  # noqa: E731
    if family == "vit":
        return {"pixel_values": rng.standard_normal((2, 3, 20, 20), np.float32)}
    if family in ("clip", "siglip"):
        text = draw(2, TARGET)
        text[0, 11] = text[1, 17] = 3
        pixels = rng.standard_normal((2, 3, 20, 20), np.float32)
        return {"input_ids": text, "pixel_values": pixels}
    target = {"decoder_input_ids": draw(2, TARGET)}
    if family == "whisper":
        return target | {"input_features": rng.standard_normal((2, 8, 2 * SOURCE), np.float32)}
    mask = (np.arange(SOURCE) < np.array([[SOURCE], [19]])).astype(np.int32)
    return target | {"input_ids": draw(2, SOURCE), "attention_mask": mask}


def run(family, model, params, inputs):
    """Returns outputs without those of padding."""
    out = jax.jit(lambda p, i: model.family.forward(model, p, **i))(params, inputs)
    if "encoder_last_hidden_state" in out and "attention_mask" in inputs:
        out["encoder_last_hidden_state"] *= inputs["attention_mask"][..., None]
    return out


def written_down(choice):
    """Returns attention as the papers have it, for the choice and with a full mask's padding."""

    def attend(query, key, value, mask, scores, *, implementation, bias, drop):
        del implementation, drop
        length, keys, heads = query.shape[1], key.shape[1], query.shape[2]
        behind = np.arange(length)[:, None] - np.arange(keys)[None, :]
        seen = np.ones((1, length, keys), bool)
        own = length == keys  # Sources, targets and a pooling query differ in length.
        if mask.causal:
            seen = seen & (behind >= 0)
        if own and choice == "window":
            seen = seen & (np.abs(behind) < 5)
        if own and choice == "block_sparse":
            blocks = -(-length // 4)
            visible = Pattern(**SPARSE).visible(blocks, causal=mask.causal)
            seen = seen & np.kron(visible, np.ones((4, 4), bool))[:length, :length]
        if mask.key_segments is not None:
            seen = seen & (mask.key_segments[:, None, :] == 1)
        seen = jnp.asarray(seen)[:, None]
        if own and choice == "linear":
            feature = lambda x: jnp.where(x > 0, x + 1.0, jnp.exp(jnp.minimum(x, 0.0)))  # noqa: E731
            weights = seen * jnp.einsum("btnh,bsnh->bnts", feature(query), feature(key))
        else:
            scale = 1.0 if scores.scale is not None else query.shape[-1] ** -0.5
            logits = jnp.einsum("btnh,bsnh->bnts", query, key) * scale
            if own and choice == "alibi":
                slopes = np.array([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])[:heads]
                logits = logits - slopes[:, None, None] * np.abs(behind)
            if bias is not None:
                logits = logits + bias
            weights = seen * jnp.exp(logits)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = weights / jnp.where(total > 0, total, 1.0)  # Padding may see nothing.
        return jnp.einsum("bnts,bsnh->btnh", weights, value)

    return attend


FAST = ("vit", "block_sparse")


@functools.cache
def full(family):
    """Returns outputs without any choice."""
    return run(family, *built(family), inputs_of(family))


@pytest.mark.parametrize(
    ("family", "choice"),
    [pytest.param(*pair, marks=() if pair == FAST else pytest.mark.slow) for pair in PAIRS],
)
def test_a_family_with_a_choice_is_its_formula(monkeypatch, family, choice):
    model, params = built(family, choice)
    got, without = run(family, model, params, inputs_of(family)), full(family)
    # The same parameters in a model that knows none of the choices, but by what is written here.
    # (A configuration without positions of its own has no table of them.)
    plain = model if choice == "alibi" else built(family)[0]
    monkeypatch.setattr(layer, "attention", written_down(choice))
    expected = run(family, plain, params, inputs_of(family))
    for name in expected:
        error = relative_error(got[name], expected[name])
        print(f"{family} {choice} {name}: {error:.1e}")
        assert error < 1e-5, name
        assert relative_error(without[name], expected[name]) > 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize(("family", "choice"), [p for p in PAIRS if p[0] in ("bart", "clip")])
def test_no_target_sees_what_comes_behind_it(family, choice):
    model, params = built(family, choice)
    inputs = inputs_of(family)
    if family == "clip":
        changed = inputs | {"input_ids": np.array(inputs["input_ids"])}
        changed["input_ids"][0, 12:] = 5  # Behind the token that it is read at.
        out, after = (run(family, model, params, i)["text_embeds"] for i in (inputs, changed))
        np.testing.assert_allclose(out, after, atol=1e-6)
        return
    changed = inputs | {"decoder_input_ids": np.array(inputs["decoder_input_ids"])}
    changed["decoder_input_ids"][:, 9:] = 5
    out, after = (run(family, model, params, i)["last_hidden_state"] for i in (inputs, changed))
    np.testing.assert_allclose(out[:, :9], after[:, :9], atol=1e-6)
    assert np.abs(out[:, 9] - after[:, 9]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "choice"),
    [("t5", "window"), ("t5", "block_sparse")]
    + [("bart", name) for name in CHOICES]
    + [("seq2seq", "alibi"), ("seq2seq", "linear"), ("whisper", "linear")],
)
def test_decoding_token_by_token_is_the_forward_pass(family, choice):
    model, params = built(family, choice)
    source = {n: v for n, v in inputs_of(family).items() if not n.startswith("decoder_")}
    tokens = inputs_of(family)["decoder_input_ids"]

    @jax.jit
    def begin(params):
        memory = encoder_decoder.encode(model, params, **source)
        whole, _ = encoder_decoder.decode(model, params, tokens, memory)
        return encoder_decoder.prepare(model, params, memory), whole

    @jax.jit
    def step(tokens, memory, positions, cache):
        return encoder_decoder.decode(
            model, params, tokens, memory, positions=positions, cache=cache
        )

    memory, expected = begin(params)
    places = np.broadcast_to(np.arange(TARGET, dtype=np.int32), (2, TARGET))
    hidden, cache = step(tokens[:, :9], memory, places[:, :9], model.init_cache(2, 25))
    parts = [hidden]
    for t in range(9, TARGET):
        hidden, cache = step(tokens[:, t : t + 1], memory, places[:, t : t + 1], cache)
        parts.append(hidden)
    assert relative_error(jnp.concatenate(parts, axis=1), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "choice"), [("bart", "linear"), ("t5", "block_sparse"), ("siglip", "window")]
)
def test_a_mesh_of_eight_computes_the_same(family, choice):
    model, params = built(family, choice)
    inputs = {n: np.concatenate([v, v]) for n, v in inputs_of(family).items()}
    expected = run(family, model, params, inputs)
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    shardings = tree_shardings(model.abstract_params, model.logical_axes, mesh)
    with jax.set_mesh(mesh):
        got = run(family, model, jax.device_put(params, shardings), inputs)
    assert relative_error(got, expected) < 1e-5


@pytest.mark.parametrize(("family", "choice"), PAIRS)
def test_what_a_reference_has_not_is_not_written(family, choice):
    module = {"seq2seq": "marian", "siglip": "clip"}.get(family, family)
    with pytest.raises(ConfigError, match=r"model\.\S*(window|attention_pattern|positions)="):
        getattr(interop, module).write_config(configured(family, choice))


@pytest.mark.parametrize(
    ("family", "choice", "changes", "message"),
    [
        ("t5", "linear", {}, "no scores for T5's relative positions"),
        ("clip", "window", {}, r"model.image.window is 5, but an image is read at its first 1"),
        ("vit", "window", {"pooler": "tanh"}, "model.window is 5, but an image is read"),
        (
            "vit", "block_sparse", {"num_registers": 4, "head": "classification"},
            "global_blocks is 1, .* give at least 2",
        ),
        ("bart", "window", {"attention_pattern": SPARSE}, "unset one"),
        ("bart", "linear", {"positions": "alibi"}, "model.positions='alibi': unset one"),
        ("whisper", "linear", {"attention_dropout_rate": 0.1}, "attention_dropout_rate: unset"),
        ("whisper", None, {"window": 0}, "model.window is 0"),
        ("seq2seq", None, {"attention_pattern": SPARSE | {"window_blocks": 2}}, "an odd number"),
        ("clip", None, {"text": TOWER | {"window": 0}}, "model.text.window is 0"),
        (
            "clip", None, {"text": TOWER | CHOICES["linear"] | CHOICES["window"]},
            "model.text.window is 5, but model.text.attention_pattern.kind 'linear'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(family, choice, changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(family, choice, **changes)


@pytest.mark.parametrize("choice", ["window", "block_sparse", "linear"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "clip"])
def test_flops_count_what_is_seen(family, choice):
    if (family, choice) in IMPOSSIBLE:
        return
    length = 36
    full, narrow = (
        models.build(configured(family, c)).flops_per_token(length) for c in (None, choice)
    )
    seen = {"head_dim": 8, "window": CHOICES[choice].get("window")}
    seen["pattern"] = Pattern(**CHOICES[choice].get("attention_pattern", {}))
    both = {causal: row_keys(length, causal=causal, **seen) for causal in (False, True)}
    rate = 12.0 * 2 * 32
    assert full.attention - narrow.attention == pytest.approx(
        0.0 if family in ("vit", "siglip") else rate * (length - both[True])
    )
    source, per_token = length, 1.0
    if family == "whisper":
        source, per_token = SOURCE, SOURCE / length
        both[False] = row_keys(SOURCE, causal=False, **seen)
    fewer = rate * per_token * (source - both[False])
    if family == "siglip":
        fewer += rate * 25 / length * (25 - row_keys(25, causal=False, **seen))
    assert full.matmul - narrow.matmul == pytest.approx(fewer)
