"""Checkpoints that others made, and ours in their form: Hugging Face folders, both ways.

    config, params = load_pretrained("path/to/folder")
    save_pretrained("path/to/new_folder", config, params)

Each family has one table of names here; what it does not name is an error, in both directions.
"""

import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llm_jax import models
from llm_jax.configuration import ConfigError, nearest
from llm_jax.data.tokenizers import find_tokenizer, load_tokenizer
from llm_jax.interop import bart, bert, clip, gpt2, llama, marian, mixtral, t5, vit, whisper
from llm_jax.interop.folder import Folder, equal, listed, read_json, write
from llm_jax.interop.gguf import GgufFile
from llm_jax.interop.table import Entry
from llm_jax.parallel.sharding import tree_shardings

# By `model_type` of config.json. Each module has MODEL_TYPES, read_config, write_config, table and
# IGNORED, patterns of tensors that hold no parameter. It may have COPIES, the tensors that a file
# has twice, by the name of the second; PREFIX, which a bare model's names lack; and `from_tensors`,
# which corrects a Config by what the file holds.
FAMILIES = {
    name: module
    for module in (bert, clip, gpt2, llama, t5, vit, bart, whisper, marian, mixtral)
    for name in module.MODEL_TYPES
}


def load_pretrained(path: str | os.PathLike, mesh: Mesh | None = None) -> tuple[Any, Any]:
    """Returns `(config, params)` of a Hugging Face folder or GGUF file, float32.

    One parameter is read at a time, straight to where it lies: at most the model and its largest
    stacked parameter are in memory.

    Args:
      path: a folder with config.json and safetensors, or a llama-type file `*.gguf`.
      mesh: where the parameters are sharded, by their logical axes; None: one device.

    Raises:
      ConfigError: an unknown model_type or option, damaged or pickled weights, tensors that are
        missing, too many, or of another shape than the configuration says.
    """
    folder, config = _open(path)
    model = models.build(config)
    entries, shapes = _entries(config), _by_path(model.abstract_params)
    _check(folder, config, entries, shapes)
    shardings = (
        _by_path(tree_shardings(model.abstract_params, model.logical_axes, mesh))
        if mesh is not None
        else dict.fromkeys(shapes)
    )
    params = {}
    for path_ in shapes:
        host = _read(folder, *entries[path_], shapes)
        params[path_] = jax.block_until_ready(jax.device_put(host, shardings[path_]))
        del host  # before the next one is read
    return config, _nested(params)


def load_config(path: str | os.PathLike) -> Any:
    """Returns the `config` of `load_pretrained(path)`; no tensor is read."""
    return _open(path)[1]


def _open(path: str | os.PathLike) -> tuple[Folder | GgufFile, Any]:
    folder = GgufFile(path) if str(path).endswith(".gguf") else Folder(path)
    config = read_config(folder.config)
    family = family_of(config)
    if hasattr(family, "PREFIX") and isinstance(folder, Folder):
        folder.complete_names(family.PREFIX)
    if hasattr(family, "from_tensors"):
        config = family.from_tensors(config, folder)
    return folder, config


def is_pretrained(path: str | os.PathLike) -> bool:
    """Says whether `path` is a GGUF file or a folder with a config.json of a known kind."""
    if str(path).endswith(".gguf"):
        return True
    file = Path(path, "config.json")
    return file.is_file() and "model_type" in read_json(file)


def save_pretrained(
    path: str | os.PathLike,
    config: Any,
    params: Any,
    *,
    dtype: Any = np.float32,
    shard_bytes: int = 5 * 10**9,
    files: Mapping[str, bytes] = types.MappingProxyType({}),
) -> None:
    """Writes a folder that `transformers` reads: config.json and safetensors, whole or not at all.

    Args:
      path: a folder that is not there yet.
      config: of the family.
      params: its parameters.
      dtype: that they are written in.
      shard_bytes: the largest file.
      files: what else goes into the folder, such as the tokenizer's files.

    Raises:
      ConfigError: the folder is there, or the reference has no such model.
    """
    shapes = _by_path(models.build(config).abstract_params)
    leaves = _by_path(params)
    if {name: leaf.shape for name, leaf in leaves.items()} != {
        n: s.shape for n, s in shapes.items()
    }:
        raise ConfigError("the parameters are not those of the configuration")
    family = family_of(config)

    def tensors():
        for entry in family.table(config):
            stacked = [leaves[name] for name in entry.paths]
            for index, name in entry.names(stacked[0].shape):
                parts = [
                    entry.layout.to_file(np.asarray(jax.device_get(leaf[index])))
                    for leaf in stacked
                ]
                tensor = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=entry.axis)
                yield name, tensor.astype(dtype, order="C")

    written = family.write_config(config) | {"dtype": np.dtype(dtype).name}
    write(path, written, tensors(), shard_bytes=shard_bytes, files=files)


def read_config(mapping: dict) -> Any:
    """Returns the family's Config of what a config.json holds.

    Raises:
      ConfigError: an unknown model_type, or an option that the family does not have.
    """
    name = mapping.get("model_type")
    if name not in FAMILIES:
        raise ConfigError(
            f"model_type {name!r} is unknown ({nearest(str(name), FAMILIES)}): "
            f"known are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name].read_config(mapping)


def family_of(config):
    """Returns the module of `FAMILIES` that a family's Config belongs to."""
    for module in set(FAMILIES.values()):
        if type(config) is module.CONFIG:
            return module
    raise ConfigError(f"{type(config).__module__} has no counterpart to be written as")


def _entries(config) -> dict[str, tuple[Entry, int]]:
    """Returns, for every parameter's path, its entry and its place in it."""
    return {
        path: (entry, place)
        for entry in family_of(config).table(config)
        for place, path in enumerate(entry.paths)
    }


def _check(folder: Folder, config, entries, shapes) -> None:
    """Raises `ConfigError` where file, table and model do not name the same things."""
    if entries.keys() != shapes.keys():
        raise AssertionError(f"table and model differ in {entries.keys() ^ shapes.keys()}")
    expected, optional = {}, set()
    for path, (entry, place) in entries.items():
        if place:
            continue
        parts = [entry.part_shape(shapes[name].shape) for name in entry.paths]
        shape = list(parts[0])
        if len(parts) > 1:
            shape[entry.axis] = sum(part[entry.axis] for part in parts)
        for _, name in entry.names(shapes[path].shape):
            expected[name] = tuple(shape)
            if entry.optional:
                optional.add(name)
    family = family_of(config)
    ignored = re.compile("|".join(family.IGNORED) or r"(?!)")
    there = {name for name in folder.names() if name in expected or not ignored.fullmatch(name)}
    for name, original in getattr(family, "COPIES", {}).items():
        if name not in there or name in expected:
            continue
        if original in there and not equal(folder, name, original):
            raise ConfigError(
                f"{folder.path}: {name} is not {original}, as which config.json ties it: drop it "
                "from the file, or load a model with an output of its own"
            )
        there.remove(name)
    if missing := sorted(expected.keys() - there - optional):
        raise ConfigError(f"{folder.path} lacks tensors: {listed(missing)}")
    if unknown := sorted(there - expected.keys()):
        raise ConfigError(f"{folder.path} has tensors that the model has not: {listed(unknown)}")
    wrong = [
        f"{name} {folder.shape(name)} instead of {shape}"
        for name, shape in expected.items()
        if name in there and folder.shape(name) != shape
    ]
    if wrong:
        raise ConfigError(f"{folder.path}: config.json and shapes differ: {listed(wrong)}")


def _read(folder: Folder, entry: Entry, place: int, shapes) -> np.ndarray:
    """Returns one parameter, stacked, float32."""
    shape = shapes[entry.paths[place]].shape
    parts = [entry.part_shape(shapes[name].shape) for name in entry.paths]
    start = sum(part[entry.axis] for part in parts[:place]) if len(parts) > 1 else 0
    stop = start + parts[place][entry.axis] if len(parts) > 1 else None
    out = np.empty(shape, np.float32)
    inner = shape[len(entry.placeholders) :]
    for index, name in entry.names(shape):
        if entry.optional and name not in folder.names():
            out[index] = 0
            continue
        out[index] = entry.layout.from_file(folder.read(name, start, stop, entry.axis), inner)
    return out


def _by_path(tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def _nested(leaves: dict[str, Any]) -> dict:
    tree: dict = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree
