"""WordNet's own files (Fellbaum 1998; the format is wndb(5WN)) as a thesaurus.

The files are `dict/` of the archives at wordnet.princeton.edu, /usr/share/wordnet of the Debian
package wordnet-base, or any wordnet in the same format.
"""

from pathlib import Path

from llm_jax.configuration import ConfigError

_PARTS = ("noun", "verb", "adj", "adv")


class WordNet:
    """Words that share a synset, of all parts of speech; base forms only ("car", not "cars").

    The index is held (about 40 MB for English), synsets are read when they are first asked for.
    """

    def __init__(self, directory: str | Path):
        """Reads `index.noun`, `index.verb`, `index.adj` and `index.adv`, those that are there.

        Raises:
          ConfigError: none is there, one without its `data.*`, or a damaged line.
        """
        self._directory = Path(directory)
        self._index: dict[str, list[tuple[str, int]]] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        parts = [part for part in _PARTS if (self._directory / f"index.{part}").is_file()]
        if not parts:
            raise ConfigError(f"{directory} holds no WordNet: give the folder with index.noun")
        for part in parts:
            if not (self._directory / f"data.{part}").is_file():
                raise ConfigError(f"{directory} has index.{part} without data.{part}: add it")
            self._read_index(part)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Returns the other words of the synsets of `word`, sorted.

        Args:
          word: in lower case. Synsets that write it otherwise are left out: they are of names
            ("Brown", a poet) and abbreviations.

        Raises:
          ConfigError: the index points at what is no synset.
        """
        if word not in self._index:
            return ()
        if word not in self._known:
            synsets = [set(self._synset(*place)) for place in self._index[word]]
            found = set().union(*(synset for synset in synsets if word in synset))
            self._known[word] = tuple(sorted(found - {word}))
        return self._known[word]

    def _read_index(self, part: str) -> None:
        path = self._directory / f"index.{part}"
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                # The licence in front of the words is indented.
                if line.startswith("  "):
                    continue
                fields = line.split()
                try:
                    synsets = int(fields[2])
                    offsets = [int(field) for field in fields[-synsets:]]
                    if len(fields) != 6 + int(fields[3]) + synsets:
                        raise ValueError
                except (ValueError, IndexError):
                    raise ConfigError(
                        f"{path}, line {number} is none of WordNet's: {line[:60]!r}"
                    ) from None
                known = self._index.setdefault(fields[0].replace("_", " "), [])
                known += [(part, offset) for offset in offsets]

    def _synset(self, part: str, offset: int) -> list[str]:
        path = self._directory / f"data.{part}"
        with path.open("rb") as file:
            file.seek(offset)
            fields = file.readline().decode("utf-8", "replace").split()
        try:
            if fields[0] != f"{offset:08}":
                raise ValueError
            count = int(fields[3], 16)
            words = fields[4 : 4 + 2 * count : 2]
            if len(words) != count:
                raise ValueError
        except (ValueError, IndexError):
            raise ConfigError(
                f"{path} has no synset at byte {offset}: index and data are not of one WordNet"
            ) from None
        # An adjective may say where it stands: "galore(ip)".
        return [word.partition("(")[0].replace("_", " ") for word in words]
