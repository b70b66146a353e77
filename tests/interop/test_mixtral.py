import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.generation.engine import generate
from llm_jax.generation.samplers import SamplingOptions
from llm_jax.interop import load_pretrained, read_config, save_pretrained
from llm_jax.interop.mixtral import ARCHITECTURES, write_config
from llm_jax.models import mixtral
from llm_jax.testing import relative_error

SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 24,
    "vocab_size": 97,
    "max_position_embeddings": 40,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "pad_token_id": None,
}
QWEN = SIZES | {"num_experts": 5, "moe_intermediate_size": 20}
CONFIGS = {
    "mixtral": ("mixtral", SIZES | {"num_local_experts": 4}),
    "mixtral-window": ("mixtral", SIZES | {
        "num_local_experts": 3, "sliding_window": 5, "num_experts_per_tok": 3,
        "tie_word_embeddings": True, "router_aux_loss_coef": 0.02,
    }),
    "mixtral-one-expert": ("mixtral", SIZES | {
        "num_local_experts": 6, "num_experts_per_tok": 1, "num_hidden_layers": 3,
    }),
    "qwen2": ("qwen2_moe", QWEN | {"shared_expert_intermediate_size": 28}),
    "qwen2-normalized": ("qwen2_moe", QWEN | {
        "shared_expert_intermediate_size": 40, "norm_topk_prob": True, "num_experts_per_tok": 4,
    }),
    "qwen2-tied": ("qwen2_moe", QWEN | {
        "shared_expert_intermediate_size": 20, "tie_word_embeddings": True, "num_experts": 3,
    }),
    "qwen3": ("qwen3_moe", QWEN),
    "qwen3-normalized": ("qwen3_moe", QWEN | {"norm_topk_prob": True, "attention_bias": True}),
    "qwen3-wide": ("qwen3_moe", QWEN | {
        "head_dim": 12, "num_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 3,
    }),
}  # fmt: skip


@pytest.fixture
def network(reference):
    """A function: a key of CONFIGS -> (transformers' model, its config, its folder)."""
    transformers = pytest.importorskip("transformers")

    def make(name):
        kind, options = CONFIGS[name]
        architecture = getattr(transformers, ARCHITECTURES[kind])
        hf = architecture.config_class(**options, attn_implementation="eager")
        made, folder = reference(architecture, hf)
        return made, hf, folder

    return make


def by_file_name(kind, name, gradient):
    """Yields the names that a file gives to the parts of a parameter of the network."""
    if kind == "mixtral":
        name = name.replace("mlp.", "block_sparse_moe.")
    names = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    stem, _, last = name.rpartition(".")
    if last == "gate_up_proj":
        for expert, both in enumerate(gradient):
            for part, half in zip(names, np.split(both, 2)):
                yield f"{stem}.{expert}.{part}.weight", half
    elif last == "down_proj":
        for expert, part in enumerate(gradient):
            yield f"{stem}.{expert}.{names[2]}.weight", part
    else:
        yield name, gradient


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_gradients_and_files_are_those_of_the_reference(network, tmp_path, name):
    import torch

    peer, hf, folder = network(name)
    config, params = load_pretrained(folder)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, hf.vocab_size, (2, 20))
    mask = np.ones_like(ids)
    mask[1, :6] = 0
    seen = mask.astype(bool)
    slopes = rng.standard_normal((2, 20, hf.vocab_size)).astype(np.float32) * mask[..., None]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    outputs = peer(**inputs, output_router_logits=True)
    ((outputs.logits * torch.tensor(slopes)).sum() + 5.0 * outputs.aux_loss).backward()
    expected = outputs.logits.detach().numpy()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        out = models.forward(config, params, input_ids=ids, attention_mask=mask)
        return (out["logits"] * slopes).sum() + 5.0 * out["aux_loss"], out

    (_, got), gradients = jax.jit(run)(params)
    assert relative_error(np.asarray(got["logits"])[seen], expected[seen]) < 1e-5
    assert relative_error(got["aux_loss"], outputs.aux_loss.detach().numpy()) < 1e-5
    router = np.stack([layer.detach().numpy() for layer in outputs.router_logits])
    router = router.reshape(got["router_logits"].shape)
    assert relative_error(np.asarray(got["router_logits"])[:, seen], router[:, seen]) < 1e-5

    save_pretrained(tmp_path / "gradients", config, gradients)
    gradients = load_file(tmp_path / "gradients" / "model.safetensors")
    wanted = {
        part: value
        for whole, leaf in peer.named_parameters()
        for part, value in by_file_name(hf.model_type, whole, leaf.grad.numpy())
    }
    assert gradients.keys() == wanted.keys()
    assert relative_error(gradients, wanted) < 1e-5
    largest = max(np.abs(gradient).max() for gradient in wanted.values())
    for tensor, gradient in wanted.items():
        if np.abs(gradient).max() > 1e-3 * largest:
            assert relative_error(gradients[tensor], gradient) < 1e-5, tensor

    save_pretrained(tmp_path / "again", config, params)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    again = type(peer).from_pretrained(tmp_path / "again", attn_implementation="eager").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(**inputs).logits.numpy(), expected)


@pytest.mark.parametrize("name", ["mixtral-window", "qwen2"])
def test_greedy_tokens_are_those_of_transformers(network, name):
    import torch

    peer, hf, folder = network(name)
    config, params = load_pretrained(folder)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(5, hf.vocab_size, length).tolist() for length in (11, 6)]
    ids, mask = np.full((2, 11), 5), np.zeros((2, 11), int)
    for row, prompt in enumerate(prompts):
        ids[row, 11 - len(prompt) :] = prompt
        mask[row, 11 - len(prompt) :] = 1
    expected = peer.generate(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=12,
        do_sample=False, eos_token_id=None, pad_token_id=5,
    )[:, 11:].tolist()  # fmt: skip
    options = SamplingOptions(temperature=0, max_new_tokens=12)
    got = generate(models.build(config), params, prompts, options, end_ids=())
    assert [list(row.tokens) for row in got] == expected


def test_presets_are_written_and_have_the_published_number_of_parameters():
    published = {
        "mixtral-8x7b-v0.1": ("mixtral", 46_702_792_704),
        "qwen1.5-moe-a2.7b": ("qwen2_moe", 14_315_784_192),
        "qwen3-30b-a3b": ("qwen3_moe", 30_532_122_624),
    }
    for name, preset in mixtral.PRESETS.items():
        config = models.parse_config({"family": "mixtral", "balance_group": "batch"} | preset)
        written = write_config(config)
        again = read_config(json.loads(json.dumps(written)))
        counts = [models.build(c).num_params for c in (config, again)]
        assert (written["model_type"], *counts) == (*published[name], published[name][1])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise"),
        ("mixtral", {"num_experts_per_tok": 9}, "9 of 8"),
        ("qwen2_moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("qwen2_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("qwen2_moe", {"qkv_bias": False}, "qkv_bias"),
        ("qwen3_moe", {"use_sliding_window": True}, "use_sliding_window"),
    ],
)
def test_options_that_are_not_computed_are_refused(kind, change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_config({"model_type": kind} | SIZES | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"capacity_factor": 1.0}, {"shared_mlp_size": 8}, {"normalize_weights": False}]
)
def test_what_no_model_type_has_is_not_written(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        write_config(mixtral.Config(**change))
