"""Whether an encoder here and one of `transformers` are the same: outputs, gradients, files."""

import copy

import jax
import numpy as np
import torch
from safetensors.numpy import load_file

from llm_jax import models
from llm_jax.interop import load_pretrained, save_pretrained
from llm_jax.testing import relative_error


def check(network, folder, tmp_path, *, inputs, seen, bound=1e-5):
    """Asserts that `network` and what is loaded from its `folder` agree, and are written back.

    Args:
      network: a model of `transformers`, fp32, in evaluation mode.
      folder: what it was saved to.
      tmp_path: an empty folder.
      inputs: of both, by keyword, numpy.
      seen: by output's name, a mask of its leading axes, or None: where it has a meaning.
      bound: of every relative error, and of each gradient that is not tiny.
    """
    config, params = load_pretrained(folder)
    expected = outputs_of(network, inputs)
    arrays = {k: v for k, v in inputs.items() if isinstance(v, np.ndarray)}
    fixed = {k: v for k, v in inputs.items() if k not in arrays}
    run = jax.jit(lambda params, arrays: models.forward(config, params, **arrays, **fixed))
    got = run(params, arrays)
    missing = {name for name in seen if name not in got}
    assert not missing, f"no {missing} in {set(got)}"
    errors = {
        name: relative_error(_at(np.asarray(got[name]), mask), _at(expected[name], mask))
        for name, mask in seen.items()
    }
    assert max(errors.values()) < bound, errors

    rng = np.random.default_rng(1)
    weights = {
        name: (rng.standard_normal(expected[name].shape) * _shaped(mask, expected[name])).astype(
            np.float32
        )
        for name, mask in seen.items()
    }

    def loss(params):
        outputs = models.forward(config, params, **arrays, **fixed)
        return sum((outputs[name] * w).sum() for name, w in weights.items())

    save_pretrained(tmp_path / "our_gradients", config, jax.jit(jax.grad(loss))(params))
    torch_gradients(network, inputs, weights).save_pretrained(tmp_path / "their_gradients")
    ours, theirs = (
        load_file(tmp_path / name / "model.safetensors")
        for name in ("our_gradients", "their_gradients")
    )
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    worst = {n: float(np.abs(ours[n] - theirs[n]).max() / largest) for n in theirs}
    assert max(worst.values()) < bound, worst
    for name, gradient in theirs.items():
        if np.abs(gradient).max() > 1e-3 * largest:
            assert relative_error(ours[name], gradient) < bound, name

    save_pretrained(tmp_path / "again", config, params)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    again, loading = type(network).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    logits = outputs_of(again.eval(), inputs)
    for name in seen:
        np.testing.assert_array_equal(logits[name], expected[name])
    assert load_pretrained(tmp_path / "again")[0] == config


def outputs_of(network, inputs) -> dict[str, np.ndarray]:
    """Returns the arrays that a model of `transformers` gives."""
    with torch.no_grad():
        outputs = network(**_tensors(inputs))
    return {k: v.numpy() for k, v in outputs.items() if isinstance(v, torch.Tensor)}


def torch_gradients(network, inputs, weights):
    """Returns a copy of `network` whose parameters are gradients of `sum(weights * outputs)`."""
    network.zero_grad()
    outputs = network(**_tensors(inputs))
    sum((outputs[name] * torch.tensor(w)).sum() for name, w in weights.items()).backward()
    gradients = copy.deepcopy(network)
    with torch.no_grad():
        for target, source in zip(gradients.parameters(), network.parameters(), strict=True):
            target.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
    return gradients


def _tensors(inputs):
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}


def _at(array, mask):
    return array if mask is None else array[mask]


def _shaped(mask, array):
    return 1.0 if mask is None else mask.reshape(*mask.shape, *(1,) * (array.ndim - mask.ndim))
