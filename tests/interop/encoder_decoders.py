"""What the tests of every encoder-decoder compare with `transformers`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import models
from llm_jax.interop import load_pretrained, read_config, save_pretrained
from llm_jax.testing import relative_error


def text_inputs(vocab_size, *, seed=0, batch=2, source=13, target=9, first=3):
    """Padded token ids: the sources on the right, the targets on the right too."""
    rng = np.random.default_rng(seed)
    inputs = {
        "input_ids": rng.integers(first, vocab_size, (batch, source)),
        "decoder_input_ids": rng.integers(first, vocab_size, (batch, target)),
        "attention_mask": np.ones((batch, source), np.int32),
        "decoder_attention_mask": np.ones((batch, target), np.int32),
    }
    inputs["attention_mask"][1, 8:] = 0
    inputs["decoder_attention_mask"][1, 6:] = 0
    return inputs


def _torch(inputs):
    torch = pytest.importorskip("torch")
    return {name: torch.tensor(np.asarray(value)) for name, value in inputs.items()}


def check_all(network, folder, inputs, tmp_path, frozen=()):
    """Outputs, gradients, cached decoding and files of a folder are those of `network`."""
    config, params = load_pretrained(folder)
    check_outputs(network, config, params, inputs)
    check_gradients(network, config, params, inputs, tmp_path / "gradient", frozen)
    check_cache(config, params, inputs)
    check_files(network, folder, config, params, inputs, tmp_path / "again")


def check_outputs(network, config, params, inputs):
    """Logits and hidden states are those of `network` to 1e-5."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = network(**_torch(inputs), output_hidden_states=True)
    run = jax.jit(lambda params: models.forward(config, params, **inputs))
    got = run(params)
    seen = {
        "logits": inputs.get("decoder_attention_mask"),
        "last_hidden_state": inputs.get("decoder_attention_mask"),
        "encoder_last_hidden_state": inputs.get("attention_mask"),
    }
    theirs = {
        "logits": expected.logits,
        "last_hidden_state": expected.decoder_hidden_states[-1],
        "encoder_last_hidden_state": expected.encoder_last_hidden_state,
    }
    assert got.keys() == theirs.keys()
    for name, mask in seen.items():
        ours, reference = np.asarray(got[name]), theirs[name].numpy()
        keep = np.ones(ours.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        assert ours.shape == reference.shape
        error = relative_error(ours[keep], reference[keep])
        print(f"{name}: {error:.1e}")
        assert error < 1e-5


def check_gradients(network, config, params, inputs, written, frozen):
    """The gradients of a weighted sum of logits are the reference's; `frozen` ones are zero."""
    torch = pytest.importorskip("torch")
    shape = (*inputs["decoder_input_ids"].shape, config.vocab_size)
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    if "decoder_attention_mask" in inputs:
        weights *= inputs["decoder_attention_mask"][:, :, None]

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(models.forward(config, params, **inputs)["logits"] * weights)

    save_pretrained(written, config, gradient(params))
    ours = load_file(written / "model.safetensors")
    (network(**_torch(inputs)).logits * torch.tensor(weights)).sum().backward()
    theirs = {
        name: parameter.grad.numpy()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and name in ours
    }
    network.zero_grad()
    for name in frozen:
        assert not np.any(ours.pop(name)), name
        theirs.pop(name, None)
    assert ours.keys() == theirs.keys()
    error = relative_error(ours, theirs)
    largest = max(np.max(np.abs(value)) for value in theirs.values())
    each = max(
        relative_error(ours[name], theirs[name])
        for name in theirs
        if np.max(np.abs(theirs[name])) > 1e-3 * largest
    )
    print(f"gradients: {error:.1e}, a tensor's worst {each:.1e}")
    assert error < 1e-5
    assert each < 1e-5


def check_files(network, folder, config, params, inputs, written):
    """A folder that was read and written again has the same tensors and the same logits."""
    torch = pytest.importorskip("torch")
    save_pretrained(written, config, params)
    before, after = (load_file(f / "model.safetensors") for f in (folder, written))
    assert before.keys() == after.keys()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert read_config(json.loads((written / "config.json").read_text())) == config
    again = type(network).from_pretrained(written).eval()
    with torch.no_grad():
        expected, got = (n(**_torch(inputs)).logits.numpy() for n in (network, again))
    np.testing.assert_array_equal(got, expected)


def check_cache(config, params, inputs):
    """Decoding token by token gives the hidden states of the whole forward pass."""
    model = models.build(config)
    family = model.family
    # Only the last tokens of a target are padded; none of the others sees them.
    source = {n: v for n, v in inputs.items() if not n.startswith("decoder_")}
    tokens = jnp.asarray(inputs["decoder_input_ids"])
    batch, length = tokens.shape

    @jax.jit
    def begin(params):
        memory = family.encode(model, params, **source)
        whole = models.forward(config, params, decoder_input_ids=tokens, **source)
        unprepared, _ = family.decode(model, params, tokens, memory)
        return family.prepare(model, params, memory), whole["last_hidden_state"], unprepared

    prepared, expected, unprepared = begin(params)
    assert relative_error(unprepared, expected) < 1e-5

    @jax.jit
    def step(params, token, memory, position, cache):
        return family.decode(model, params, token, memory, positions=position, cache=cache)

    cache = model.init_cache(batch, length + 3)
    # The first tokens at once, as a prompt; behind it one by one.
    start = 3
    places = jnp.broadcast_to(jnp.arange(start), (batch, start))
    hidden, cache = step(params, tokens[:, :start], prepared, places, cache)
    parts = [hidden]
    for place in range(start, length):
        position = jnp.full((batch, 1), place, jnp.int32)
        hidden, cache = step(params, tokens[:, place : place + 1], prepared, position, cache)
        parts.append(hidden)
    error = relative_error(jnp.concatenate(parts, axis=1), expected)
    print(f"cache: {error:.1e}")
    assert error < 1e-5
