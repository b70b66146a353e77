"""Which files there are to read, in which order, and in which format: by the ends of their names.

Formats: `text` (.txt .text .md .rst), `jsonl` (.jsonl .ndjson .json, one object a line), `csv`,
`tsv`, `tar`, these also behind `.gz` (.tgz), `parquet`, and `arrow`: streams as Hugging Face's
`save_to_disk` writes them, in its folders those that `state.json` lists.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llm_jax.configuration import ConfigError
from llm_jax.data.sources import user_files

_FORMATS = {
    ".txt": "text", ".text": "text", ".md": "text", ".rst": "text",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv",
    ".tar": "tar", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
_NEVER_COMPRESSED = ("parquet", "arrow")


class File(NamedTuple):
    """A file: its name (the relative posix path), where it is, and its format (`jsonl.gz`)."""

    name: str
    path: Path
    format: str


def files_of(path: str | Path, *, unknown_as_text: bool = False) -> list[File]:
    """Returns the files at `path`, sorted by their names.

    Args:
      path: a directory (hidden files in it do not count), a file, or several with commas between.
      unknown_as_text: read files with other ends of their names as text.

    Raises:
      ConfigError: a path that is not there, no files at all, a file of no known format, or a
        `state.json` that lists files which are not there.
    """
    found = user_files(str(path))
    listed = {}
    for _, file in found:
        if file.name == "state.json" and (names := _listed(file)) is not None:
            listed[file.parent] = names
    files = []
    for name, file in found:
        if file.parent in listed:
            if file.name in listed[file.parent]:
                files.append(File(name, file, "arrow"))
        elif not (file.name == "dataset_dict.json" and _is_above(file.parent, listed)):
            files.append(File(name, file, _format(name, unknown_as_text)))
    if not files:
        raise ConfigError(f"{path} holds no files: give a directory with some, or files")
    return sorted(files)


def _format(name: str, unknown_as_text: bool) -> str:
    lower = PurePosixPath(name).name.lower()
    lower = f"{lower[:-4]}.tar.gz" if lower.endswith(".tgz") else lower
    end = ".gz" if lower.endswith(".gz") else ""
    form = _FORMATS.get(PurePosixPath(lower.removesuffix(".gz")).suffix)
    if form is None and unknown_as_text:
        form = "text"
    if form is None or (end and form in _NEVER_COMPRESSED):
        raise ConfigError(
            f"{name} is of no known format ({' '.join(_FORMATS)}; .gz not with "
            f"{' and '.join(_NEVER_COMPRESSED)}): leave it out, or read unknown files as text"
        )
    return form + end


def _listed(state: Path) -> set[str] | None:
    """Returns the names of the data files in a dataset's `state.json`; None if it is none."""
    try:
        content = json.loads(state.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, Mapping) or "_data_files" not in content:
        if (state.parent / "dataset_info.json").exists():
            raise ConfigError(f"{state} is damaged: save the dataset again")
        return None
    entries = content["_data_files"]
    entries = entries if isinstance(entries, list) else [None]
    names = {entry.get("filename") if isinstance(entry, Mapping) else None for entry in entries}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{state} lists {name!r}, which is no file of its folder: mend it")
        if not (state.parent / name).is_file():
            raise ConfigError(f"{state} lists {name}, which is not there: restore it")
    return names


def _is_above(folder: Path, listed: Mapping[Path, set[str]]) -> bool:
    return any(folder in inner.parents for inner in listed)
