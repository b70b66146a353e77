"""From text to rows of tokens on disk: documents, tokenizer, packed rows, manifest.

A prepared directory holds `documents/` (TFDS, array_record), the tokenizer (sentencepiece's
`tokenizer.model`, or `tokenizer.json` and `tokenizer_config.json`), `tokens-train.array_record`,
`tokens-validation.array_record` and `manifest.json`; of images see `llm_jax.data.images`. That of a
mixture holds such a directory for each part, with the same tokenizer. It
appears at once and whole: everything is written to `NAME.partial` beside it, which is renamed at
the end.
"""

import os
import platform
import shutil
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaned import open_cleaned
from llm_jax.data.config import DataConfig
from llm_jax.data.images import open_images, write_images
from llm_jax.data.manifest import FILE_NAME, FORMAT, Manifest, again, load_manifest
from llm_jax.data.manifest import verify as verify_files
from llm_jax.data.objectives import NextToken
from llm_jax.data.pairs import open_pairs
from llm_jax.data.records import open_records
from llm_jax.data.sources import open_source
from llm_jax.data.tfds_texts import open_tfds
from llm_jax.data.write_labelled import open_labelled, write_labelled


def token_file(split: str) -> str:
    """Returns the name of the file with the split's rows."""
    return f"tokens-{split}.array_record"


def prepare(
    config: DataConfig, *, vocab_size: int, directory: str | os.PathLike, objective=NextToken()
) -> Manifest:
    """Makes `directory` hold the data of `config`; what is there and fits is used again.

    In a run of several processes one of them calls this and the others wait for it.

    Args:
      config: source, row length and tokenizer options.
      vocab_size: pieces wanted of a tokenizer that is trained (short texts may give fewer), and
        the most that one of `config.tokenizer.path` may have.
      directory: where; made if missing, together with its parents.
      objective: of `llm_jax.data.objectives`: how long records are, and which symbols the
        tokenizer must have.

    Returns:
      the manifest.

    Raises:
      ConfigError: no usable text (see `open_source`), a vocabulary too small, a tokenizer that is
        not there or lacks symbols of the objective, a directory that cannot be written, that holds
        something else or data of another configuration (the differing keys are named), or a file
        in it that is damaged or missing (named).
    """
    directory = Path(directory)
    source = open_documents(config)
    inputs = inputs_of(config, source, vocab_size, objective)
    if (directory / FILE_NAME).exists():
        manifest = load_manifest(directory)
        _refuse_other_inputs(directory, manifest, inputs)
        verify_files(directory, manifest)
        return manifest
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} is there but holds no prepared data: name another directory, or "
            "move it away"
        )
    partial = directory.with_name(directory.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if config.kind == "images":
            manifest = write_images(source, inputs, partial)
        elif config.kind == "labelled":
            manifest = write_labelled(config, source, inputs, vocab_size, partial)
        else:
            from llm_jax.data.write_text import write_text  # imports TFDS, most of a second

            manifest = write_text(config, source, inputs, vocab_size, objective, partial)
        manifest.save(partial)
        partial.replace(directory)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written ({error.strerror or error}): make room or name a "
            "directory that is yours"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


_OPEN = {
    "stdlib": open_source, "text": open_source, "cleaned": open_cleaned, "records": open_records,
    "tfds": open_tfds, "functions": open_pairs, "pairs": open_pairs, "images": open_images,
    "labelled": open_labelled, "csv": open_labelled, "tagged": open_labelled,
}  # fmt: skip


def open_documents(config: DataConfig):
    """Returns the source behind `config`; of a mixture those of its parts, by name."""
    if config.source == "mixture":
        return {name: open_documents(config.of_part(name)) for name in sorted(config.mixture)}
    return _OPEN[config.source](config)


def inputs_of(config: DataConfig, source, vocab_size: int, objective) -> dict:
    """Returns everything that the prepared data of `source` follow from."""
    if config.source == "mixture":
        contents = {name: part.content_sha256 for name, part in source.items()}
        sources = {name: config.of_part(name).source for name in source}
        inputs = {"source": sources, "content_sha256": contents}
    else:
        inputs = {"source": config.source, "content_sha256": source.content_sha256}
    if config.kind == "images":
        return inputs
    if config.kind == "labelled":
        keys = ("text", "second", "label", "sequence_length")
        inputs |= {key: getattr(config, key) for key in keys}
        for key in ("per_class", "window"):
            if getattr(config, key):  # which older data do not tell
                inputs[key] = getattr(config, key)
        if config.folds:
            inputs["fold"] = (config.fold, config.folds)
        inputs |= {"target": objective.target, "tokenizer": config.tokenizer.inputs()}
        return inputs | ({"units": objective.units} if objective.target == "tags" else {})
    inputs |= {
        "record_length": objective.record_length(config.sequence_length),
        "symbols": tuple(objective.symbols),
        "vocab_size": vocab_size,
        "sequence_length": config.sequence_length,
        "cross_document_attention": config.cross_document_attention,
        "tokenizer": config.tokenizer.inputs(),
    }
    if config.packing != "split":  # which older data do not tell
        inputs["packing"] = config.packing
    if objective.kind == "text" and objective.by_document:
        if config.packing != "split":
            raise ConfigError(
                f"data.packing is {config.packing!r}, but objective.name {objective.name!r} cuts "
                "each document by itself: leave it out"
            )
        inputs["by_document"] = True
    if objective.name == "answers":
        inputs["asked"] = "chat" if objective.chat else objective.separator
    if config.source in ("stdlib", "functions"):
        inputs["python"] = platform.python_version()
    return inputs


def _refuse_other_inputs(directory: Path, manifest: Manifest, inputs: dict) -> None:
    if manifest.format != FORMAT:
        raise ConfigError(
            f"{directory} has data of format {manifest.format}, this program writes {FORMAT}: "
            + again(directory)
        )
    differing = [
        f"{key} (there {manifest.inputs.get(key)!r}, asked for {inputs.get(key)!r})"
        for key in sorted(manifest.inputs.keys() | inputs.keys())
        if manifest.inputs.get(key) != inputs.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{directory} holds data prepared from something else, differing in "
            f"{', '.join(differing)}: use another work directory, or delete this one"
        )
