import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import models
from llm_jax.interop import load_pretrained, save_pretrained
from llm_jax.testing import relative_error

CONFIGS = {
    "plain": {},
    "wide": {"n_head": 6, "n_embd": 48, "n_inner": 80, "activation_function": "gelu"},
    "deep": {"n_layer": 4, "vocab_size": 130, "n_positions": 24, "layer_norm_epsilon": 1e-3},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_files_are_those_of_the_reference(reference, tmp_path, name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 97, "n_positions": 32}
    hf = transformers.GPT2Config(**sizes | CONFIGS[name])
    network, folder = reference(transformers.GPT2LMHeadModel, hf)
    config, params = load_pretrained(folder)

    ids = np.random.default_rng(0).integers(0, hf.vocab_size, (2, 20))
    mask = np.ones_like(ids)
    mask[1, :6] = 0
    with torch.no_grad():
        expected = network(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    got = models.forward(config, params, input_ids=ids, attention_mask=mask)["logits"]
    seen = mask.astype(bool)
    assert relative_error(np.asarray(got)[seen], expected[seen]) < 1e-5

    save_pretrained(tmp_path / "again", config, params)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        logits = again(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    np.testing.assert_array_equal(logits, expected)
