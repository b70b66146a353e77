"""Where text comes from: files, in a fixed order, each in the train or the validation split.

Hold-out rule. A file is held out for validation where
`int(sha256(its relative posix path).hexdigest(), 16) % 20 == 0`: about one in twenty, the same on
every machine. Paths are relative to the library ("stdlib") or to the directory that the user gave;
a file given by itself counts under its own name. If that leaves one of the splits empty (few
files), the user's text is cut within files in place of it: the last twentieth of every file,
beginning after a line end, is held out.
"""

import dataclasses
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from llm_jax.configuration import ConfigError
from llm_jax.data.config import DataConfig

SPLITS = ("train", "validation")
HELD_OUT_ONE_IN = 20

_TESTS = {"test", "tests", "idle_test"}
_NOT_LIBRARY = frozenset(_TESTS | {"encodings", "site-packages", "dist-packages", "__pycache__"})


@dataclasses.dataclass(frozen=True)
class Document:
    """One text: `name` is its relative path, `text` what it says (never empty).

    Of a pair `text` is the source and `target` what is to be made of it.
    """

    name: str
    text: str
    target: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """A fixed list of files.

    Attributes:
      kind: the value of data.source that it stands for.
      files: (relative posix path, path) in reading order.
      cut_within_files: hold out the end of every file, not whole files.
      content_sha256: over the relative paths and the bytes of all files.
    """

    kind: str
    files: tuple[tuple[str, Path], ...]
    cut_within_files: bool
    content_sha256: str

    def documents(self, split: str) -> Iterator[Document]:
        """Yields the documents of `split` ("train" or "validation"), empty ones left out."""
        held_out = split == "validation"
        for name, path in self.files:
            if self.cut_within_files:
                head, tail = cut_tail(_read_text(path))
                text = tail if held_out else head
            elif is_held_out(name) == held_out:
                text = _read_text(path)
            else:
                continue
            if text:
                yield Document(name, text)


def open_source(config: DataConfig) -> Source:
    """Lists and checks the files behind `config`.

    Raises:
      ConfigError: a path that is not there, a file that is not UTF-8 (named, with the offset of
        the first bad byte), no text at all, or too little of it for two splits.
    """
    if config.source == "stdlib":
        files = library_files(Path(sysconfig.get_paths()["stdlib"]))
    else:
        files = user_files(config.path)
    digest = hashlib.sha256()
    filled: list[str] = []
    kept: list[tuple[str, Path]] = []
    cut_gives_both = False
    for name, path in files:
        raw = _read_bytes(path)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            if config.source == "stdlib":
                continue
            raise ConfigError(
                f"{path} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}): "
                "convert it to UTF-8 or leave it out of data.path"
            ) from None
        kept.append((name, path))
        for part in (name.encode("utf-8", "surrogateescape"), raw):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        if not text.strip():
            continue
        filled.append(name)
        if config.source == "text" and not cut_gives_both:
            cut_gives_both = all(cut_tail(text))
    if not filled:
        given = config.path or sysconfig.get_paths()["stdlib"]
        raise ConfigError(f"{given} holds no text: give files with some UTF-8 text in them")
    whole_files = len({is_held_out(name) for name in filled}) == 2
    if not whole_files and not cut_gives_both:
        given = config.path or sysconfig.get_paths()["stdlib"]
        raise ConfigError(
            f"{given} is too short to hold out text for validation: give several files, or one "
            f"with more than {HELD_OUT_ONE_IN} lines"
        )
    return Source(config.source, tuple(kept), not whole_files, digest.hexdigest())


def is_held_out(name: str) -> bool:
    """Whether the file with the relative posix path `name` belongs to validation."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return int(digest, 16) % HELD_OUT_ONE_IN == 0


def cut_tail(text: str) -> tuple[str, str]:
    """Returns (train part, held-out part): the last twentieth, beginning after a line end."""
    line_end = text.find("\n", len(text) - len(text) // HELD_OUT_ONE_IN - 1)
    cut = len(text) if line_end < 0 else line_end + 1
    return text[:cut], text[cut:]


def library_files(root: Path) -> list[tuple[str, Path]]:
    """Returns (relative posix path, path) of the modules of Python's library at `root`."""
    files = []
    for name, path in _walk(root, without=_NOT_LIBRARY):
        if name.endswith(".py") and not PurePosixPath(name).name.startswith("test_"):
            files.append((name, path))
    return files


def user_files(given: str) -> list[tuple[str, Path]]:
    """Returns (relative posix path, path) of the files that `data.path` names."""
    whole = Path(given).expanduser()
    items = [whole] if whole.exists() else [Path(p.strip()).expanduser() for p in given.split(",")]
    files = []
    for item in items:
        if item.is_dir():
            files.extend(_walk(item))
        elif item.is_file():
            files.append((item.name, item))
        elif item != Path("."):
            raise ConfigError(
                f"data.path names {str(item)!r}, which is not there: give a directory, or files "
                "with commas between"
            )
    return files


def _walk(root: Path, without: frozenset = frozenset()) -> list[tuple[str, Path]]:
    """Returns the regular files below `root` that are not hidden, in the order of their paths."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in without]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                found.append((path.relative_to(root).as_posix(), path))
    return sorted(found)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): mend it or leave it out of data.path"
        ) from None


def _read_text(path: Path) -> str:
    return _read_bytes(path).decode("utf-8")
