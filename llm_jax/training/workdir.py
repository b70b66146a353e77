"""The work directory: whose run it is, and that it can be written."""

import json
import os
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from llm_jax import data
from llm_jax.configuration import ConfigError, to_dict
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
        (path / ".writable").touch()
        (path / ".writable").unlink()
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

    The others wait for it; the work directory is shared by all.
    """

    def prepare():
        return data.prepare(
            config.data,
            vocab_size=getattr(config.model, "vocab_size", 0),  # images have none
            directory=data_directory(workdir),
            objective=config.objective,
        )

    if jax.process_index() == 0:
        manifest = prepare()
    multihost_utils.sync_global_devices("data")
    return manifest if jax.process_index() == 0 else prepare()


def data_directory(workdir: str) -> str:
    """Returns where a run keeps its documents, tokenizer and token records."""
    return str(Path(workdir, "data"))
