import dataclasses
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
from llm_jax.interop.llama import ARCHITECTURES, write_config
from llm_jax.layers.rope import RopeScaling
from llm_jax.models import llama
from llm_jax.testing import relative_error

FULL, SLIDING = llama.FULL, llama.SLIDING
SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 97,
    "max_position_embeddings": 40,
    "head_dim": 8,
    # No padding token: torch would give its embedding no gradient.
    "pad_token_id": None,
    "bos_token_id": 3,
    "eos_token_id": 4,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 5e3, "factor": 8.0}
LLAMA_3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS = {
    "llama": ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-biases": ("llama", {
        "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
        "rope_parameters": LLAMA_3,
    }),
    "llama-wide-heads": ("llama", {
        "head_dim": 12, "vocab_size": 130, "hidden_act": "gelu", "num_hidden_layers": 3,
        "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 100.0},
    }),
    "mistral": ("mistral", {"sliding_window": 5}),
    "mistral-full": ("mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "mistral-yarn": ("mistral", {
        "num_key_value_heads": 1, "sliding_window": 1,
        "rope_parameters": YARN | {"original_max_position_embeddings": 10},
    }),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {
        "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
        "tie_word_embeddings": True,
    }),
    "qwen2-dynamic": ("qwen2", {
        "num_key_value_heads": 4, "num_hidden_layers": 3,
        "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 100.0},
    }),
    "qwen3": ("qwen3", {}),
    "qwen3-window": ("qwen3", {
        "use_sliding_window": True, "sliding_window": 6, "layer_types": [SLIDING, FULL],
        "tie_word_embeddings": True, "attention_bias": True,
    }),
    "qwen3-yarn": ("qwen3", {
        "head_dim": 16, "num_hidden_layers": 3, "rope_parameters": YARN | {
            "original_max_position_embeddings": 10, "mscale": 0.7, "mscale_all_dim": 0.3,
            "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False,
        },
    }),
    "gemma2": ("gemma2", {"sliding_window": 5, "query_pre_attn_scalar": 20}),
    "gemma2-sharp-caps": ("gemma2", {
        "sliding_window": 3, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0,
        "num_hidden_layers": 3, "attention_bias": True,
    }),
    "gemma2-no-caps": ("gemma2", {
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "vocab_size": 130,
        "layer_types": [FULL, FULL], "tie_word_embeddings": False, "num_key_value_heads": 1,
    }),
    "gemma3": ("gemma3_text", {"sliding_window": 5, "num_hidden_layers": 6}),
    "gemma3-bases": ("gemma3_text", {
        "sliding_window": 4, "layer_types": [FULL, SLIDING], "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 900.0},
            SLIDING: {"rope_type": "default", "rope_theta": 20.0},
        },
    }),
    "gemma3-caps": ("gemma3_text", {
        "sliding_window": 7, "layer_types": [SLIDING, FULL], "final_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 5, "num_key_value_heads": 4,
    }),
}  # fmt: skip


@pytest.fixture
def network(reference):
    """A function: model type and options -> (transformers' model, its config, its folder)."""
    transformers = pytest.importorskip("transformers")

    def make(kind, changes):
        architecture = getattr(transformers, ARCHITECTURES[kind])
        hf = architecture.config_class(**SIZES | changes, attn_implementation="eager")
        made, folder = reference(architecture, hf)
        return made, hf, folder

    return make


def batch_of(vocab_size):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab_size, (2, 20))
    mask = np.ones_like(ids)
    mask[1, :6] = 0
    slopes = rng.standard_normal((2, 20, vocab_size)).astype(np.float32) * mask[..., None]
    return ids, mask, slopes


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_gradients_and_files_are_those_of_the_reference(network, tmp_path, name):
    import torch

    peer, hf, folder = network(*CONFIGS[name])
    config, params = load_pretrained(folder)
    ids, mask, slopes = batch_of(hf.vocab_size)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    expected = peer(**inputs).logits
    (expected * torch.tensor(slopes)).sum().backward()
    expected = expected.detach().numpy()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        logits = models.forward(config, params, input_ids=ids, attention_mask=mask)["logits"]
        return (logits * slopes).sum(), logits

    (_, got), gradients = jax.jit(run)(params)
    seen = mask.astype(bool)
    assert relative_error(np.asarray(got)[seen], expected[seen]) < 1e-5

    save_pretrained(tmp_path / "gradients", config, gradients)
    gradients = load_file(tmp_path / "gradients" / "model.safetensors")
    wanted = {name: leaf.grad.numpy() for name, leaf in peer.named_parameters()}
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
    kind = json.loads((tmp_path / "again" / "config.json").read_text())["model_type"]
    assert kind == ("llama" if name == "mistral-full" else CONFIGS[name][0])
    again = type(peer) if kind == hf.model_type else __import__("transformers").LlamaForCausalLM
    again = again.from_pretrained(tmp_path / "again", attn_implementation="eager").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(**inputs).logits.numpy(), expected)
    assert (again.config.bos_token_id, again.config.eos_token_id) == (3, 4)


@pytest.mark.parametrize("name", ["llama", "qwen2-window", "gemma2-sharp-caps", "gemma3-bases"])
def test_greedy_tokens_are_those_of_transformers(network, name):
    import torch

    peer, hf, folder = network(*CONFIGS[name])
    config, params = load_pretrained(folder)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(5, hf.vocab_size, length).tolist() for length in (11, 6)]
    ids = np.full((2, 11), 5)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, 11 - len(prompt) :] = prompt
        mask[row, 11 - len(prompt) :] = 1
    expected = peer.generate(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=5,
    )[:, 11:].tolist()
    options = SamplingOptions(temperature=0, max_new_tokens=12)
    got = generate(models.build(config), params, prompts, options, end_ids=())
    assert [list(row.tokens) for row in got] == expected


OLDER_FILES = {
    "llama-3.1": ("llama", {
        "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096,
        "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
        "num_key_value_heads": 8, "rope_theta": 500000.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
    }),
    "vicuna": ("llama", {
        "max_position_embeddings": 16384, "rope_scaling": {"factor": 4.0, "type": "linear"},
        "num_key_value_heads": None, "head_dim": None,
    }),
    "gemma-2": ("gemma2", {"query_pre_attn_scalar": 224, "rope_theta": 10000.0}),
    "gemma-3": ("gemma3_text", {
        "num_hidden_layers": 7, "rope_theta": 1e6, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window_pattern": 3,
    }),
    "qwen2-window": ("qwen2", {"num_hidden_layers": 30, "use_sliding_window": True}),
    "qwen2": ("qwen2", {
        "sliding_window": 32768, "max_window_layers": 24, "use_sliding_window": False,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", OLDER_FILES)
def test_older_config_files_mean_what_transformers_reads_in_them(name):
    transformers = pytest.importorskip("transformers")
    kind, changes = OLDER_FILES[name]
    older = {"model_type": kind} | SIZES | changes
    hf = getattr(transformers, ARCHITECTURES[kind]).config_class(**older)
    assert read_config(older) == read_config(json.loads(hf.to_json_string()))
    bare = {n: v for n, v in older.items() if n not in ("head_dim", "num_key_value_heads")}
    bare |= {"hidden_size": 4096, "num_attention_heads": 32}
    hf = getattr(transformers, ARCHITECTURES[kind]).config_class(**bare)
    full = json.loads(hf.to_json_string(use_diff=False))
    assert read_config(bare) == read_config(full)


@pytest.mark.parametrize("name", llama.PRESETS)
def test_presets_are_written_and_read_again(name):
    config = models.parse_config({"family": "llama"} | llama.PRESETS[name])
    kind = {
        "smollm2": "llama",
        "llama": "llama",
        "mistral": "mistral",
        "qwen2": "qwen2",
        "qwen3": "qwen3",
    }
    kind |= {"gemma-2": "gemma2", "gemma-3": "gemma3_text"}
    written = write_config(config)
    assert written["model_type"] == next(v for k, v in kind.items() if name.startswith(k))
    again = read_config(json.loads(json.dumps(written)))
    assert again.sliding == config.sliding
    assert models.build(again).num_params == models.build(config).num_params


def test_presets_have_the_published_number_of_parameters():
    published = {
        "llama-2-7b": 6_738_415_616,
        "llama-3-8b": 8_030_261_248,
        "llama-3.1-70b": 70_553_706_496,
        "llama-3.2-1b": 1_235_814_400,
        "mistral-7b-v0.1": 7_241_732_096,
        "qwen2-0.5b": 494_032_768,
        "qwen3-0.6b": 596_049_920,
        "smollm2-135m": 134_515_008,
        "gemma-2-2b": 2_614_341_888,
        "gemma-3-1b": 999_885_952,
    }
    for name, count in published.items():
        model = models.build(models.parse_config({"family": "llama"} | llama.PRESETS[name]))
        config = model.config
        assert config.padded_vocab == config.vocab_size
        assert model.num_params == count, name


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("llama", {"hidden_act": "gleu"}, "gleu"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "lacks factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2, "mscale": 1}}, "mscale"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary"),
        ("llama", {"rope_scaling": {"type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias"),
        ("qwen2", {"layer_types": [SLIDING, FULL]}, "use_sliding_window"),
        ("qwen2", {"layer_types": [FULL]}, "1 layer_types for 2"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
        ("gemma2", {"use_bidirectional_attention": True}, "bidirectional"),
        ("gemma3_text", {
            "rope_parameters": {SLIDING: {"rope_type": "linear", "factor": 2.0}},
        }, "sliding layers"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 3.0}}, "rope_theta"),
    ],
)  # fmt: skip
def test_options_that_are_not_computed_are_refused(kind, change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_config({"model_type": kind} | SIZES | change)
    assert "\n" not in str(caught.value)


def test_a_config_without_sizes_is_refused():
    with pytest.raises(ConfigError, match="lacks num_hidden_layers, hidden_size"):
        sizes = {n: v for n, v in SIZES.items() if n not in ("hidden_size", "num_hidden_layers")}
        read_config({"model_type": "llama"} | sizes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dropout_rate": 0.1}, "llama has not model.dropout_rate=0.1"),
        ({"attention_biases": ("query",)}, "attention_biases"),
        ({"qk_norm": True, "norm_offset": 1.0}, "has not"),
        ({"rotary_scaling": RopeScaling("dynamic", 2.0, 7)}, "rotary_scaling"),
    ],
)
def test_what_no_model_type_has_is_not_written(change, words):
    config = dataclasses.replace(llama.Config(), **change)
    with pytest.raises(ConfigError, match=words) as caught:
        write_config(config)
    assert "\n" not in str(caught.value)
