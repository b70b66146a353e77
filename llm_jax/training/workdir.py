"""The work directory: whose run it is, and that it can be written."""

import dataclasses
import json
import os
from pathlib import Path

import jax

from llm_jax import data
from llm_jax.configuration import ConfigError, to_dict
from llm_jax.data.manifest import FILE_NAME as MANIFEST
from llm_jax.parallel import distributed
from llm_jax.training.run import RunConfig, refuse_other_run


def open_workdir(workdir: str, config: RunConfig) -> None:
    """Makes the directory `workdir` and sees that this run may use it.

    Raises:
      ConfigError: it cannot be written, or it holds a run with another configuration.
    """
    path = Path(workdir)
    stored = path / "config.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{jax.process_index()}"
        probe.touch()
        probe.unlink()
        if stored.exists():
            refuse_other_run(json.loads(stored.read_text()), config, workdir)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{stored} is no JSON ({error}): mend it or use another one") from error
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be written ({error.strerror}): give a directory that can"
        ) from error


def claim_workdir(workdir: str, config: RunConfig) -> None:
    """Writes the run's `config.json`: from now on `workdir` is this run's."""
    if jax.process_index() == 0:
        temporary = Path(workdir, "config.json.tmp")
        temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n")
        os.replace(temporary, Path(workdir, "config.json"))


def prepare_data(config: RunConfig, workdir: str) -> data.Manifest:
    """Returns the manifest of the run's data in `WORKDIR/data`, made by the first process.

    The others wait for it; the work directory is shared by all. A run that goes on with other
    parameters goes on with their tokenizer, unless `data.tokenizer.path` names another.

    Raises:
      ConfigError: as `data.prepare`, or the model counts on another tokenizer's padding or end.
    """
    given = config.data.tokenizer
    tokenizer = dataclasses.replace(given, path=given.path or config.init_from)

    def prepare():
        return data.prepare(
            dataclasses.replace(config.data, tokenizer=tokenizer),
            vocab_size=getattr(config.model, "vocab_size", 0),  # images have none
            directory=directory,
            objective=config.objective,
        )

    directory = data_directory(workdir)
    distributed.from_first(lambda: prepare() and None)
    if not Path(directory, MANIFEST).exists():
        raise ConfigError(
            f"process {jax.process_index()} does not see {directory}, which process 0 wrote: give "
            "a --workdir in a file system that all processes share"
        )
    manifest = data.load_manifest(directory)
    for key, needed in (("pad_token_id", manifest.pad_id), ("eos_token_id", manifest.eos_id)):
        if needed is not None and getattr(config.model, key, needed) != needed:
            raise ConfigError(
                f"model.{key} is {getattr(config.model, key)} and the tokenizer has {needed} for "
                f"it: set model.{key} to that"
            )
    return manifest


def data_directory(workdir: str) -> str:
    """Returns where a run keeps its documents, tokenizer and token records."""
    return str(Path(workdir, "data"))
