"""What a folder must be, and that a bad one is refused in one line."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import load_pretrained, save_pretrained
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.testing import tiny_config


@pytest.fixture(scope="module")
def model():
    config = models.parse_config(tiny_config(vocab_size=128))  # no padding rows
    return config, jax.jit(models.build(config).init)(jax.random.key(0))


@pytest.fixture
def folder(tmp_path, model):
    save_pretrained(tmp_path / "model", *model)
    return tmp_path / "model"


def rewritten(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_what_is_written_is_read_again(folder, model):
    config, params = load_pretrained(folder)
    assert config == model[0]
    jax.tree.map(np.testing.assert_array_equal, params, model[1])


def test_many_files_with_an_index_are_one_folder(tmp_path, model):
    save_pretrained(tmp_path / "shards", *model, shard_bytes=20_000)
    assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 2
    _, params = load_pretrained(tmp_path / "shards")
    jax.tree.map(np.testing.assert_array_equal, params, model[1])


def test_a_mesh_gets_its_shards(folder, model):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    _, params = load_pretrained(folder, mesh)
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 64)
    jax.tree.map(np.testing.assert_array_equal, params, model[1])


def test_bfloat16_is_written_and_read(tmp_path, model):
    save_pretrained(tmp_path / "half", *model, dtype=jax.numpy.bfloat16)
    _, params = load_pretrained(tmp_path / "half")
    expected = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), model[1])
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_folder_that_is_there_stays(folder, model):
    with pytest.raises(ConfigError, match="is there already"):
        save_pretrained(folder, *model)


def test_a_failed_write_leaves_nothing(tmp_path, model, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm_jax.interop.folder.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(tmp_path / "model", *model)
    assert list(tmp_path.iterdir()) == []


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ConfigError, match="pickled weights only.*safe_serialization"):
        load_pretrained(folder)


def test_a_cut_file_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="model.safetensors is damaged"):
        load_pretrained(folder)


def test_a_tampered_header_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    with pytest.raises(ConfigError, match="model.safetensors is damaged"):
        load_pretrained(folder)


def test_missing_and_unknown_tensors_are_named(folder):
    rewritten(folder, lambda tensors: tensors.update(stray=tensors.pop("transformer.wte.weight")))
    with pytest.raises(ConfigError, match="lacks tensors: transformer.wte.weight"):
        load_pretrained(folder)


def test_a_tensor_too_many_is_named(folder):
    rewritten(folder, lambda tensors: tensors.update(stray=np.zeros(3, np.float32)))
    with pytest.raises(ConfigError, match="that the model has not: stray"):
        load_pretrained(folder)


def test_a_shape_that_does_not_fit_is_named(folder):
    def cut(tensors):
        tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"][:5]

    rewritten(folder, cut)
    with pytest.raises(
        ConfigError, match=r"transformer.wpe.weight \(5, 32\) instead of \(32, 32\)"
    ):
        load_pretrained(folder)


def test_an_unknown_model_type_shows_the_known(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "gtp2"}))
    with pytest.raises(ConfigError, match="'gtp2' is unknown.*gpt2"):
        load_pretrained(folder)


def test_an_option_that_cannot_be_computed_is_named(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scale_attn_weights": False}))
    with pytest.raises(ConfigError, match="scale_attn_weights is False"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd"])
def test_an_index_stays_in_its_folder(tmp_path, model, name):
    save_pretrained(tmp_path / "shards", *model, shard_bytes=20_000)
    index = tmp_path / "shards" / "model.safetensors.index.json"
    mapping = json.loads(index.read_text())
    mapping["weight_map"]["transformer.wte.weight"] = name
    index.write_text(json.dumps(mapping))
    with pytest.raises(ConfigError, match="outside the folder"):
        load_pretrained(tmp_path / "shards")


def test_a_model_that_the_reference_has_not_is_not_written(tmp_path):
    config = models.parse_config(tiny_config(positions="rotary"))
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    with pytest.raises(ConfigError, match="model.positions='learned' only"):
        save_pretrained(tmp_path / "model", config, params)
