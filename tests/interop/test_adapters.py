"""Adapters of `peft` here, and ours there; the comparison is with the library itself."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import load_pretrained
from llm_jax.interop.adapters import CONFIG, WEIGHTS, load_adapters, save_adapters
from llm_jax.peft import IA3, Bottleneck, Lora, PTuning, adapted
from llm_jax.testing import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

BASES = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32,
        intermediate_size=48, vocab_size=97, max_position_embeddings=40, pad_token_id=None,
        attention_bias=True,
    )),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(
        n_layer=2, n_head=4, n_embd=32, vocab_size=97, n_positions=40, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )),
    "bert": (transformers.BertModel, transformers.BertConfig(
        num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=48,
        vocab_size=97, max_position_embeddings=40,
    )),
    "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config(
        num_layers=2, num_decoder_layers=2, num_heads=4, d_model=32, d_ff=48, d_kv=8,
        vocab_size=97, dropout_rate=0.0, decoder_start_token_id=0,
    )),
}  # fmt: skip
TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "gpt2": r".*\.\d+\.(attn\.c_proj|mlp\.c_fc|mlp\.c_proj)",
    "bert": ["query", "value", "output.dense"],
    "t5": ["q", "v", "wi"],
}


def ia3_config(name):
    inner = {"llama": ["down_proj"], "gpt2": ["c_fc"], "bert": [], "t5": ["wi"]}[name]
    targets = {"gpt2": ["c_fc"], "llama": ["k_proj", "v_proj", "down_proj"], "bert": ["key"]}
    return peft.IA3Config(
        target_modules=targets.get(name, ["k", "v", "wi"]), feedforward_modules=inner,
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip


def lora_config(name, **changes):
    settings = {"r": 4, "lora_alpha": 6, "fan_in_fan_out": name == "gpt2"} | changes
    return peft.LoraConfig(target_modules=TARGETS[name], **settings)


KINDS = {
    "lora": lora_config,
    "rslora": lambda name: lora_config(name, use_rslora=True),
    "dora": lambda name: lora_config(name, use_dora=True),
    "ia3": ia3_config,
}


def inputs(name):
    tokens = np.random.default_rng(0).integers(1, 97, (2, 9))
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens[:, :6]} if name == "t5" else {})


def theirs(model, name):
    given = {key: torch.tensor(value) for key, value in inputs(name).items()}
    output = model(**given)
    return output.last_hidden_state if name == "bert" else output.logits


def ours(model, params, name):
    given = {key: jnp.asarray(value) for key, value in inputs(name).items()}
    output = model.family.forward(model, params, **given)
    return output["last_hidden_state" if name == "bert" else "logits"]


def base(name, folder):
    torch.manual_seed(0)
    kind, config = BASES[name]
    model = kind(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_peft_compute_the_same_here_and_back(name, kind, tmp_path):
    plain = base(name, tmp_path / "base")
    model = peft.get_peft_model(plain, KINDS[kind](name)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.2 * torch.randn_like(value))
    want = theirs(model, name)
    model.save_pretrained(tmp_path / "theirs")

    config, params = load_pretrained(tmp_path / "base")
    methods, adapters = load_adapters(tmp_path / "theirs", config)
    grown = adapted(models.build(config), methods)

    def loss(adapters):
        found = ours(grown, params | {"adapters": adapters}, name)
        return jnp.sum(jnp.sin(found)), found

    gradients, found = jax.jit(jax.grad(loss, has_aux=True))(adapters)
    assert relative_error(found, want.detach().numpy()) < 1e-5
    if name == "bert":  # a bare model's adapters belong to the one with a head too
        _, same = load_adapters(
            tmp_path / "theirs", dataclasses.replace(config, head="masked_lm", pooler=False)
        )
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), same, adapters))

    save_adapters(tmp_path / "ours", config, adapters, methods)
    written, given = (load_file(tmp_path / one / WEIGHTS) for one in ("ours", "theirs"))
    assert written.keys() == given.keys()
    for key, value in given.items():
        np.testing.assert_array_equal(written[key].reshape(value.shape), value, err_msg=key)

    again = peft.PeftModel.from_pretrained(base(name, tmp_path / "again"), tmp_path / "ours")
    torch.testing.assert_close(theirs(again.eval(), name), want, rtol=1e-5, atol=1e-5)

    # Gradients: saved as adapters are, they have the library's names and shapes.
    torch.sin(want).sum().backward()
    save_adapters(tmp_path / "gradients", config, gradients, methods)
    mine = load_file(tmp_path / "gradients" / WEIGHTS)
    reference = {
        re.sub(r"\.(default)\b", "", key): value.grad.numpy()
        for key, value in model.named_parameters()
        if value.grad is not None
    }
    largest = max(np.abs(value).max() for value in reference.values())
    for key, value in reference.items():
        key = key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
        error = np.abs(mine[key].reshape(value.shape) - value).max()
        assert error < 1e-5 * largest, key


def virtual_config(kind):
    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    if kind == "prefix":
        return peft.PrefixTuningConfig(**common)
    if kind == "prompt":
        return peft.PromptTuningConfig(**common)
    return peft.PromptEncoderConfig(**common, encoder_hidden_size=16)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["prompt", "ptuning", "prefix"])
def test_virtual_tokens_of_peft_compute_the_same_here_and_back(name, kind, tmp_path):
    torch.manual_seed(1)
    model = peft.get_peft_model(base(name, tmp_path / "base"), virtual_config(kind)).eval()
    # A prompt's own tokens have outputs there.
    want = theirs(model, name)[:, -9:].detach().numpy()
    model.save_pretrained(tmp_path / "theirs")

    config, params = load_pretrained(tmp_path / "base")
    methods, adapters = load_adapters(tmp_path / "theirs", config)
    grown, tuned = adapted(models.build(config), methods), params | {"adapters": adapters}
    tokens = jnp.asarray(inputs(name)["input_ids"])

    @jax.jit
    def found(params):
        return grown.logits(params, grown.hidden(params, tokens)[0])

    assert relative_error(found(tuned), want) < 1e-5
    other = jax.tree.map(lambda x: x * 1.1, adapters)
    assert relative_error(found(params | {"adapters": other}), want) > 1e-4

    save_adapters(tmp_path / "ours", config, adapters, methods)
    again = peft.PeftModel.from_pretrained(base(name, tmp_path / "again"), tmp_path / "ours")
    torch.testing.assert_close(
        theirs(again.eval(), name)[:, -9:], torch.tensor(want), rtol=1e-5, atol=1e-5
    )


def vectors(model, params, ids):
    """What the model's table gives for ids: caught where it is read."""
    caught = []

    def catch(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.module.name == "embedding" and context.method_name == "__call__":
            caught.append(y)
        return y

    watched = dataclasses.replace(model, interceptors=(catch, *model.interceptors))
    watched.apply(params, ids)
    return np.asarray(caught[0])


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_what_makes_a_prompt_is_peft_s_network(kind):
    given = peft.PromptEncoderConfig(
        num_virtual_tokens=5, token_dim=8, num_transformer_submodules=1, encoder_hidden_size=6,
        encoder_reparameterization_type=kind.upper(), encoder_num_layers=2,
    )  # fmt: skip
    torch.manual_seed(0)
    network = peft.tuners.PromptEncoder(given)
    model = adapted(
        models.build(models.parse_config({
            "family": "llama", "num_layers": 1, "num_heads": 2, "hidden_size": 8, "mlp_size": 8,
            "vocab_size": 32,
        })),
        (PTuning(tokens=5, encoder=kind, hidden=6),),
    )  # fmt: skip
    own = model.grown(model.init(jax.random.key(0)), jax.random.key(0))["adapters"]["embedding"]
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    changed = {"ptuning_input": state["embedding.weight"]}
    places = (0, 2, 4) if kind == "mlp" else (0, 2)
    for layer, place in enumerate(places):
        changed[f"ptuning_mlp_{layer}"] = state[f"mlp_head.{place}.weight"].T
        changed[f"ptuning_mlp_{layer}_bias"] = state[f"mlp_head.{place}.bias"]
    for layer in range(2 if kind == "lstm" else 0):
        for way, suffix in ((1, ""), (-1, "_reverse")):
            end = f"l{layer}{suffix}"
            changed |= {
                f"ptuning_lstm_{layer}_in_{way:+d}": state[f"lstm_head.weight_ih_{end}"].T,
                f"ptuning_lstm_{layer}_state_{way:+d}": state[f"lstm_head.weight_hh_{end}"].T,
                f"ptuning_lstm_{layer}_bias_{way:+d}": state[f"lstm_head.bias_ih_{end}"]
                + state[f"lstm_head.bias_hh_{end}"],
            }
    assert changed.keys() == own.keys()
    assert all(changed[name].shape == own[name].shape for name in own)
    params = model.init(jax.random.key(0)) | {"adapters": {"embedding": changed}}
    ids = jnp.arange(5)[None] + model.config.padded_vocab
    got = vectors(model, params, ids)
    want = network(torch.arange(5)[None]).detach().numpy()
    assert relative_error(got, want) < 1e-5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of LoRA for a small Llama, its Config, adapters and methods."""
    config = models.parse_config({
        "family": "llama", "num_layers": 2, "num_heads": 2, "hidden_size": 16, "mlp_size": 24,
        "vocab_size": 32,
    })  # fmt: skip
    methods = (Lora(rank=2),)
    model = models.build(config)
    params = model.init(jax.random.key(0))
    adapters = adapted(model, methods).grown(params, jax.random.key(1))["adapters"]
    folder = tmp_path_factory.mktemp("adapters") / "saved"
    save_adapters(folder, config, adapters, methods, base="someone/llama")
    return folder, config, adapters, methods


def changed(folder, target, **changes):
    target.mkdir()
    config = json.loads((folder / CONFIG).read_text()) | changes
    (target / CONFIG).write_text(json.dumps(config))
    (target / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    return target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA': known are LORA, IA3, PROMPT_TUNING"),
        ({"bias": "all"}, "has bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save ['lm_head']"),
        ({"rank_pattern": {"q_proj": 4}}, "has rank_pattern"),
        ({"use_dora": True}, "lacks lora_magnitude_vector of layers/attention/query"),
        ({"r": 4}, "64 numbers, not of shape (2, 16, 4)"),
    ],
)
def test_what_cannot_be_read_is_refused(saved, tmp_path, changes, said):
    folder, config, _, _ = saved
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_adapters(changed(folder, tmp_path / "changed", **changes), config)


def test_tensors_of_another_model_are_refused(saved, tmp_path):
    folder, config, _, _ = saved
    target = changed(folder, tmp_path / "changed")
    tensors = load_file(target / WEIGHTS)
    save_file(tensors | {"base_model.model.x.lora_A.weight": np.zeros(3)}, target / WEIGHTS)
    with pytest.raises(ConfigError, match="tensors of no layer of this model: base_model.model.x"):
        load_adapters(target, config)
    (target / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_adapters(target, config)


def test_what_peft_cannot_keep_is_refused(saved, tmp_path):
    folder, config, adapters, methods = saved
    with pytest.raises(ConfigError, match="is there already"):
        save_adapters(folder, config, adapters, methods)
    for wrong in ((Bottleneck(),), (*methods, IA3()), ()):
        with pytest.raises(ConfigError, match="peft keeps one Lora, IA3, Prompt or Prefix"):
            save_adapters(tmp_path / "x", config, adapters, wrong)
    gpt2 = models.parse_config({"family": "gpt2"})
    with pytest.raises(ConfigError, match="layers/attention/query is a part of one matrix"):
        save_adapters(tmp_path / "x", gpt2, adapters, methods)
    assert not list(tmp_path.iterdir())
