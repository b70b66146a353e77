import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import bert, load_pretrained, read_config, save_pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.interop.agreement import check  # noqa: E402

TEXT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
DISTILLED = {"vocab_size": 97, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
CASES = {
    "bert": ("BertModel", TEXT),
    "bert-wide": (
        "BertModel",
        TEXT
        | {
            "hidden_size": 48,
            "num_attention_heads": 6,
            "intermediate_size": 80,
            "type_vocab_size": 3,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
        },
    ),
    "bert-masked": ("BertForMaskedLM", TEXT | {"vocab_size": 130, "hidden_act": "relu"}),
    "bert-pretraining": ("BertForPreTraining", TEXT | {"hidden_act": "relu"}),
    "roberta": ("RobertaModel", TEXT | {"type_vocab_size": 1, "hidden_act": "silu"}),
    "roberta-masked": (
        "RobertaForMaskedLM",
        TEXT | {"num_hidden_layers": 3, "pad_token_id": 4, "layer_norm_eps": 1e-5},
    ),
    "distilbert": ("DistilBertModel", DISTILLED | {"max_position_embeddings": 24}),
    "distilbert-masked": ("DistilBertForMaskedLM", DISTILLED | {"activation": "relu"}),
}


def batch(hf):
    """Ids, right and left padding, and token types where the model has them."""
    rng = np.random.default_rng(0)
    padding = hf.pad_token_id
    ids = rng.integers(5, hf.vocab_size, (3, 20))
    mask = np.ones_like(ids)
    mask[1, 13:] = 0
    mask[2, :6] = 0
    inputs = {"input_ids": np.where(mask, ids, padding), "attention_mask": mask}
    types = getattr(hf, "type_vocab_size", 0)
    if types > 1:
        inputs["token_type_ids"] = rng.integers(0, types, ids.shape)
    return inputs


def made(kind, **sizes):
    return getattr(transformers, kind).config_class(**sizes)


@pytest.mark.parametrize("name", CASES)
def test_outputs_gradients_and_files_are_those_of_the_reference(reference, tmp_path, name):
    kind, sizes = CASES[name]
    hf = made(kind, **sizes)
    network, folder = reference(getattr(transformers, kind), hf)
    inputs = batch(hf)
    real = inputs["attention_mask"].astype(bool)
    if "Masked" in kind:
        seen = {"logits": real}
    elif "PreTraining" in kind:
        seen = {"prediction_logits": real, "seq_relationship_logits": real[:, 0]}
    else:
        seen = {"last_hidden_state": real}
        if "Distil" not in kind:
            # Row 2 is padded on the left: its first token, which is pooled, is void.
            seen["pooler_output"] = real[:, 0]
    check(network, folder, tmp_path, inputs=inputs, seen=seen)


def test_token_types_and_mask_may_be_left_out(reference):
    kind, sizes = CASES["bert"]
    network, folder = reference(transformers.BertModel, made(kind, **sizes))
    config, params = load_pretrained(folder)
    ids = np.random.default_rng(3).integers(0, 97, (2, 9))
    with torch.no_grad():
        expected = network(torch.tensor(ids)).last_hidden_state.numpy()
    got = models.forward(config, params, input_ids=ids)["last_hidden_state"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_folder_of_a_sentence_encoder_loads(reference, tmp_path):
    """MiniLM's file has buffers, its config options of older versions."""
    kind, sizes = CASES["bert"]
    _, folder = reference(transformers.BertModel, made(kind, **sizes))
    plain = load_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.position_ids"] = np.arange(40)[None]
    save_file(tensors, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"position_embedding_type": "absolute", "gradient_checkpointing": False}
    (folder / "config.json").write_text(json.dumps(settings))
    config, params = load_pretrained(folder)
    assert config == plain[0]
    assert config.pooler
    np.testing.assert_array_equal(params["pooler"]["kernel"], plain[1]["pooler"]["kernel"])


def test_masked_model_of_a_pretraining_file_loads(reference):
    """The published BERT says BertForMaskedLM and carries pooler, next-sentence head and ties."""
    hf = made("BertForPreTraining", **TEXT)
    network, folder = reference(transformers.BertForPreTraining, hf)
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    save_file(tensors, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    settings["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(settings))
    config, params = load_pretrained(folder)
    inputs = batch(hf)
    with torch.no_grad():
        expected = network(**{k: torch.tensor(v) for k, v in inputs.items()})
    got = np.asarray(models.forward(config, params, **inputs)["logits"])
    real = inputs["attention_mask"].astype(bool)
    expected = expected.prediction_logits.numpy()[real]
    np.testing.assert_allclose(got[real], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(models.bert.PRESETS))
def test_presets_have_the_published_sizes(name):
    published = {
        "bert-base-uncased": 109_514_298,
        "bert-large-uncased": 335_174_458,
        "roberta-base": 124_697_433,
        "distilbert-base-uncased": 66_985_530,
        "minilm-l6": 22_713_216,
    }
    config = models.parse_config({"family": "bert"} | models.bert.PRESETS[name])
    padding = config.padded_vocab - config.vocab_size
    extra = padding * (config.hidden_size + (config.head == "masked_lm"))
    assert models.build(config).num_params - extra == published[name]


HF = {"model_type": "bert", "architectures": ["BertModel"], **TEXT}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "known is BertModel or BertForMaskedLM"),
        ({"architectures": None}, "architectures is \\[\\]"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "mish"}, "activation 'mish' is unknown"),
        (
            {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": False},
            "tie_word_embeddings is False",
        ),
        (
            {
                "model_type": "roberta",
                "architectures": ["RobertaForMaskedLM"],
                "hidden_act": "relu",
            },
            "hidden_act is 'relu'",
        ),
    ],
)
def test_options_that_are_not_computed_are_refused(change, message):
    read_config(HF)
    with pytest.raises(ConfigError, match=message):
        read_config(HF | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "model.num_layers is 0: give at least 1"),
        ({"hidden_size": 33}, "does not divide into model.num_heads"),
        ({"token_types": -1}, "model.token_types is -1"),
        ({"padding_id": 511}, "model.padding_id is 511"),
        ({"dropout_rate": 1.0}, "model.dropout_rate is 1.0"),
        ({"head": "masked"}, "model.head is 'masked': choose one of none, masked_lm"),
        ({"activation": "mish"}, "model.activation is 'mish'"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        models.parse_config({"family": "bert"} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooler": False}, "BertModel has model.pooler=True only"),
        ({"head": "masked_lm"}, "BertForMaskedLM has model.pooler=False only"),
        ({"token_types": 0}, "DistilBertModel has model.pooler=False only"),
        ({"token_types": 0, "layer_norm_epsilon": 1e-5}, "a DistilBERT has"),
        ({"token_types": 0, "padding_id": 1}, "a RoBERTa has token types"),
        (
            {"head": "masked_lm", "pooler": False, "padding_id": 1, "activation": "relu"},
            "model.activation='gelu' only",
        ),
    ],
)
def test_models_without_a_counterpart_are_not_written(tmp_path, change, message):
    config = bert.read_config(HF)
    config = models.parse_config(models.configuration.to_dict(config) | change)
    params = models.build(config).abstract_params
    with pytest.raises(ConfigError, match=message):
        save_pretrained(tmp_path / "new", config, params)
    assert not (tmp_path / "new").exists()


def test_wrong_inputs_are_refused():
    config = read_config(
        HF | {"model_type": "roberta", "architectures": ["RobertaModel"], "pad_token_id": 1}
    )
    with pytest.raises(ConfigError, match="39 tokens is longer than the model's 38 positions"):
        models.forward(config, {}, input_ids=np.ones((1, 39), int))
    bare = models.parse_config({"family": "bert", "token_types": 0})
    with pytest.raises(ConfigError, match="token_type_ids were given"):
        models.forward(
            bare, {}, input_ids=np.ones((1, 3), int), token_type_ids=np.ones((1, 3), int)
        )


def test_the_old_names_of_norms_are_read(reference):
    hf = transformers.BertConfig(**TEXT)
    _, folder = reference(transformers.BertModel, hf)
    _, expected = load_pretrained(folder)
    file = folder / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    assert sum("gamma" in name for name in old) == 5
    save_file(old, file)
    _, params = load_pretrained(folder)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
