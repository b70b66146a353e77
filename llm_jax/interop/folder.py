"""A Hugging Face folder: `config.json` and one or many safetensors files, read tensor by tensor."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (gives numpy bfloat16, in which many files are)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llm_jax.configuration import ConfigError

INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Folder:
    """The tensors of a folder by name; nothing is read before it is asked for.

    A file is mapped into memory while one tensor is read and no longer: the pages count as ours.

    Raises:
      ConfigError: no folder, no config, pickled weights only, a broken file, an index that names
        a file outside the folder, or tensors that their file does not have.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_dir():
            raise ConfigError(f"{path} is no folder: give one with config.json and safetensors")
        self.config = read_json(self.path / "config.json")
        # By a tensor's present name: its file, its name there, its shape.
        self._tensors: dict[str, tuple[Path, str, tuple[int, ...]]] = {}
        for file in self._file_names():
            path = self.path / file
            try:
                with safe_open(path, framework="numpy") as opened:
                    for name in opened.keys():  # noqa: SIM118 (safe_open is no dict)
                        shape = tuple(opened.get_slice(name).get_shape())
                        self._tensors[_renamed(name)] = path, name, shape
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"{path} is damaged: {error}; fetch it anew") from None
        self._check_index()

    def _file_names(self) -> list[str]:
        index = self.path / INDEX
        if index.exists():
            names = sorted(set(read_json(index)["weight_map"].values()))
            for name in names:
                if Path(name).name != name:
                    raise ConfigError(f"{index} names {name!r}, outside the folder: refused")
                if not (self.path / name).is_file():
                    raise ConfigError(f"{index} names {name!r}, which is missing: fetch it")
            return names
        names = sorted(file.name for file in self.path.glob("*.safetensors"))
        if names:
            return names
        pickled = sorted(file.name for file in self.path.iterdir() if file.suffix in PICKLED)
        if pickled:
            raise ConfigError(
                f"{self.path} has pickled weights only ({', '.join(pickled)}), which may run code "
                "when read: load them with transformers where you trust them, and write them again "
                "by model.save_pretrained(DIR, safe_serialization=True)"
            )
        raise ConfigError(f"{self.path} has no *.safetensors: give a folder with weights")

    def _check_index(self) -> None:
        index = self.path / INDEX
        if index.exists():
            missing = sorted(set(read_json(index)["weight_map"]) - self._stored())
            if missing:
                raise ConfigError(f"{index} names tensors that no file has: {listed(missing)}")

    def _stored(self) -> set[str]:
        return {name for _, name, _ in self._tensors.values()}

    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._tensors)

    def complete_names(self, prefix: str) -> None:
        """Puts `prefix` before all names where none has it: those of a bare model, without head."""
        if not any(name.startswith(prefix) for name in self._tensors):
            self._tensors = {prefix + name: value for name, value in self._tensors.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return self._tensors[name][2]

    def read(self, name: str, start: int = 0, stop: int | None = None, axis: int = 0) -> np.ndarray:
        """Returns the tensor, or its part from `start` to `stop` along `axis`."""
        path, stored, _ = self._tensors[name]
        with safe_open(path, framework="numpy") as file:
            if stop is None:
                return file.get_tensor(stored)
            return file.get_slice(stored)[(slice(None),) * axis + (slice(start, stop),)]


def equal(folder, name: str, other: str, rows: int = 4096) -> bool:
    """Says whether two tensors are the same; few rows at a time are in memory."""
    shape = folder.shape(name)
    return shape == folder.shape(other) and all(
        np.array_equal(*(folder.read(n, start, min(start + rows, shape[0])) for n in (name, other)))
        for start in range(0, shape[0], rows)
    )


def _renamed(name: str) -> str:
    """Returns a tensor's present name: files made from TensorFlow's have gamma and beta."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def read_json(path: Path) -> dict:
    """Returns the object in a JSON file; one clear line if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None


def write(
    path: str | os.PathLike,
    config: dict,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    shard_bytes: int,
    files: Mapping[str, bytes],
) -> None:
    """Writes a folder, whole or not at all; one that is there already is refused.

    Args:
      path: the new folder.
      config: of config.json.
      tensors: names and arrays; they are taken one after the other.
      shard_bytes: a file is closed when it would grow beyond so many bytes.
      files: what else goes into the folder, by name.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there already: give a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        counts, total = [], 0
        for number, shard in enumerate(_shards(tensors, shard_bytes)):
            save_file(shard, temporary / f"{number}.safetensors", metadata={"format": "pt"})
            counts.append(list(shard))
            total += sum(array.nbytes for array in shard.values())
        if len(counts) == 1:
            os.rename(temporary / "0.safetensors", temporary / "model.safetensors")
        else:
            weight_map = {}
            for number, names in enumerate(counts):
                file = f"model-{number + 1:05d}-of-{len(counts):05d}.safetensors"
                os.rename(temporary / f"{number}.safetensors", temporary / file)
                weight_map |= dict.fromkeys(names, file)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        temporary.chmod(0o755)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _shards(tensors, limit: int) -> Iterator[dict[str, np.ndarray]]:
    shard, size = {}, 0
    for name, array in tensors:
        if shard and size + array.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = array
        size += array.nbytes
    yield shard


def listed(names: Iterable[str], most: int = 8) -> str:
    """Returns the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
