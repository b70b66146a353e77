"""Adapters as `peft` keeps them: adapter_config.json and safetensors.

LoRA, DoRA, (IA)3, prompts and prefixes.

methods, adapters = load_adapters("path/to/folder", config)
save_adapters("path/to/new_folder", config, adapters, methods)
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.interop import family_of, prompts
from llm_jax.interop.folder import listed, read_json
from llm_jax.peft import IA3, Lora, Prefix, Prompt, adapted

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# Ours, theirs, by method.
NAMES = {
    "LORA": {
        "lora_a": "lora_A.weight",
        "lora_b": "lora_B.weight",
        "lora_magnitude": "lora_magnitude_vector",
    },
    "IA3": {"ia3": "ia3_l"},
}
# What changes the result, and has to be as here.
PLAIN = {
    "bias": ("none",), "modules_to_save": (None, []), "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}), "layers_to_transform": (None, []), "layer_replication": (None,),
    "lora_bias": (None, False), "alora_invocation_tokens": (None,), "target_parameters": (None, []),
    "prefix_projection": (None, False), "megatron_config": (None,), "exclude_modules": (None, []),
    "use_bdlora": (None, False),
}  # fmt: skip


def save_adapters(
    path: str | os.PathLike, config: Any, adapters: Any, methods: tuple, base: str = ""
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained` reads, whole or not at all.

    Args:
      path: a folder that is not there yet.
      config: of the model's family.
      adapters: `params["adapters"]` of `Model.grown`.
      methods: one `Lora`, `IA3`, `Prompt` or `Prefix`.
      base: name or path of the model, for the reader's information.

    Raises:
      ConfigError: the folder is there, or these methods or layers have no form in `peft`.
    """
    path = Path(path)
    if path.exists():
        raise ConfigError(f"{path} is there already: give a new folder")
    if len(methods) != 1 or type(methods[0]) not in (Lora, IA3, Prompt, Prefix):
        names = ", ".join(type(method).__name__ for method in methods)
        raise ConfigError(
            f"peft keeps one Lora, IA3, Prompt or Prefix in a folder, not {names}: save that"
        )
    (method,) = methods
    kept = _kept if isinstance(method, Lora | IA3) else prompts.kept
    written, tensors = kept(config, adapters, method)
    written["base_model_name_or_path"] = base or None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (temporary / CONFIG).write_text(json.dumps(written, indent=2) + "\n")
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        temporary.chmod(0o755)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _kept(config: Any, adapters: Any, method: Lora | IA3) -> tuple[dict, dict]:
    """Returns the keys of adapter_config.json, and the tensors."""
    kind = "LORA" if isinstance(method, Lora) else "IA3"
    modules = _modules(config)
    tensors, reached = {}, []
    for layer, own in _by_layer(adapters).items():
        if layer not in modules:
            raise ConfigError(
                f"{layer} is a part of one matrix in this family's files, which peft adapts as a "
                "whole: merge it (llm_jax.peft.merge), or leave it out of the targets"
            )
        theirs = modules[layer]
        reached.append(theirs)
        for name, values in own.items():
            suffix = NAMES[kind][name]
            for index, module in _numbered(theirs, values.shape):
                shaped = _to_file(name, np.asarray(values[index]), method, layer)
                tensors[f"{PREFIX}{module}.{suffix}"] = np.ascontiguousarray(shaped, np.float32)
    written = {
        "peft_type": kind, "task_type": None,
        "inference_mode": True, "target_modules": _pattern(reached),
        "fan_in_fan_out": config.family == "gpt2",
    }  # fmt: skip
    if kind == "LORA":
        written |= {
            "r": method.rank, "lora_alpha": method.alpha, "use_rslora": method.rank_stabilized,
            "use_dora": method.magnitudes, "lora_dropout": 0.0, "bias": "none",
        }  # fmt: skip
    else:
        inner = [
            modules[layer]
            for layer in _by_layer(adapters)
            if re.search(rf"(^|/)({method.inputs})$", layer)
        ]
        written["feedforward_modules"] = _pattern(inner) if inner else []
    return written, tensors


def load_adapters(path: str | os.PathLike, config: Any) -> tuple[tuple, Any]:
    """Returns `(methods, adapters)` of a folder that `peft` wrote.

    Args:
      path: of the folder.
      config: of the model that they belong to.

    Raises:
      ConfigError: no such folder, a method or an option that is not here, or tensors that are not
        the model's.
    """
    path = Path(path)
    given = read_json(path / CONFIG)
    kind = given.get("peft_type")
    if kind not in (*NAMES, *prompts.KINDS):
        known = ", ".join((*NAMES, *prompts.KINDS))
        raise ConfigError(f"{path} has peft_type {kind!r}: known are {known}")
    for key, plain in PLAIN.items():
        if given.get(key, plain[0]) not in plain:
            raise ConfigError(
                f"{path / CONFIG} has {key} {given[key]!r}, which is not supported: write it "
                f"with {plain[0]!r}"
            )
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path / WEIGHTS} cannot be read: {error}") from None
    if kind in prompts.KINDS:
        return prompts.found(config, given, tensors, path)
    found, used = {}, set()
    for layer, theirs in _modules(config).items():
        for name, suffix in NAMES[kind].items():
            # A bare model's names lack the first part: "bert." or "model.".
            for start in (theirs, theirs.partition(".")[2]):
                stack = _stack(start, suffix, tensors)
                if stack is None:
                    continue
                found.setdefault(layer, {})[name] = np.stack(stack[0]) if stack[2] else stack[0][0]
                used |= set(stack[1])
                break
    if left := sorted(tensors.keys() - used):
        raise ConfigError(f"{path / WEIGHTS} has tensors of no layer of this model: {listed(left)}")
    if not found:
        raise ConfigError(f"{path / WEIGHTS} holds no adapters")
    method = _method(kind, given, found, path)
    model = adapted(models.build(config), (method,))
    wanted = _by_layer(model.abstract_params["adapters"])
    tree: dict = {}
    for layer, own in wanted.items():
        for name, leaf in own.items():
            if name not in found.get(layer, {}):
                raise ConfigError(f"{path / WEIGHTS} lacks {NAMES[kind][name]} of {layer}")
            node = tree
            for key in layer.split("/"):
                node = node.setdefault(key, {})
            node[name] = jnp.asarray(_from_file(name, found[layer][name], leaf.shape, layer, path))
    return (method,), tree


def _method(kind: str, given: dict, found: dict, path: Path):
    targets = "|".join(sorted(found))
    if kind == "LORA":
        return Lora(
            rank=given["r"],
            alpha=float(given["lora_alpha"]),
            targets=targets,
            rank_stabilized=bool(given.get("use_rslora")),
            magnitudes=bool(given.get("use_dora")),
        )
    # The vector of an input lies in a row, that of an output in a column.
    inner = [layer for layer, own in found.items() if own["ia3"].shape[-2] == 1]
    return IA3(targets=targets, inputs="|".join(sorted(inner)) or "(?!)")


def _modules(config) -> dict[str, str]:
    """Returns, for every layer with a matrix of its own, its module's name with placeholders."""
    return {
        entry.ours.removesuffix("/kernel"): entry.theirs.removesuffix(".weight")
        for entry in family_of(config).table(config)
        if isinstance(entry.ours, str) and entry.ours.endswith("/kernel")
    }


def _by_layer(adapters, path: str = "") -> dict[str, dict]:
    """Returns the adapters by their layer's path."""
    found = {}
    for key, value in adapters.items():
        inner = f"{path}/{key}" if path else key
        if not isinstance(value, dict):
            found.setdefault(path, {})[key] = value
        else:
            found |= _by_layer(value, inner)
    return found


def _numbered(theirs: str, shape):
    """Yields (index, module's name) of each layer of a stack, or of the one layer."""
    if "{" not in theirs:
        yield (), theirs
        return
    for number in range(shape[0]):
        yield (number,), re.sub(r"\{\w+\}", str(number), theirs)


def _stack(theirs: str, suffix: str, tensors: dict):
    """Returns the tensors of a module's layers, their names, and whether it is a stack; or None."""
    pattern = re.escape(f"{PREFIX}{theirs}.{suffix}").replace(r"\{layer\}", r"(\d+)")
    names = {}
    for name in tensors:
        if match := re.fullmatch(pattern, name):
            names[int(match[1]) if match.groups() else 0] = name
    if not names or sorted(names) != list(range(len(names))):
        return None
    names = [names[number] for number in sorted(names)]
    return [tensors[name] for name in names], names, "{" in theirs


def _to_file(name: str, values: np.ndarray, method, layer: str) -> np.ndarray:
    if name == "lora_a":
        return values.reshape(-1, values.shape[-1]).T
    if name == "lora_b":
        return values.reshape(values.shape[0], -1).T
    if name == "ia3":
        inner = re.search(rf"(^|/)({method.inputs})$", layer)
        return values.reshape(1, -1) if inner else values.reshape(-1, 1)
    return values.reshape(-1)


def _from_file(name: str, values: np.ndarray, shape, layer: str, path: Path) -> np.ndarray:
    if name in ("lora_a", "lora_b"):
        values = np.swapaxes(values, -1, -2)
    if values.size != np.prod(shape):
        raise ConfigError(
            f"{path / WEIGHTS}: {layer} has {name} of {values.size} numbers, not of shape {shape}"
        )
    return values.reshape(shape).astype(np.float32)


def _pattern(modules: list[str]) -> str:
    """Returns the regular expression that `peft` matches whole module names with."""
    ends = {re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(module)) for module in modules}
    return f"(.*\\.)?({'|'.join(sorted(ends))})"
