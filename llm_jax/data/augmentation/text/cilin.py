"""Tongyici Cilin, HIT's Chinese thesaurus (Mei et al. 1983, extended by HIT-IR), from its file.

A line is a code and the words of one group, `Aa01A02= 人类 生人 全人类`. The mark behind the code
says that they mean the same (=), are related (#) or that the word is alone (@).
"""

import re
from pathlib import Path

from llm_jax.configuration import ConfigError

_LINE = re.compile(r"([A-L])[a-z]\d\d[A-Z]\d\d([=#@])((?:\s+\S+)+)")


class Cilin:
    """Words of two characters and more, and those of the groups marked "=" that they are in.

    Single characters mean too many things, and the groups of particles and adverbs (class K) do
    not fit in one another's place: neither is replaced.
    """

    def __init__(self, path: str | Path):
        """Reads a file in UTF-8 or GB 18030.

        Raises:
          ConfigError: no such file, another encoding, or a line of another form.
        """
        try:
            data = Path(path).read_bytes()
        except OSError:
            raise ConfigError(f"{path} cannot be read: give the file of the thesaurus") from None
        self._words: set[str] = set()
        self._groups: dict[str, list[tuple[str, ...]]] = {}
        for number, line in enumerate(_decoded(data, path).splitlines(), 1):
            if not line.strip():
                continue
            if not (match := _LINE.fullmatch(line.strip())):
                raise ConfigError(f"{path}, line {number} is none of Cilin's: {line[:60]!r}")
            words = tuple(dict.fromkeys(word for word in match[3].split() if len(word) > 1))
            self._words.update(words)
            if match[2] == "=" and match[1] != "K":
                for word in words:
                    self._groups.setdefault(word, []).append(words)

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Returns the other words of the groups of `word`, sorted."""
        found = {other for group in self._groups.get(word, ()) for other in group}
        return tuple(sorted(found - {word}))


def _decoded(data: bytes, path) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ConfigError(f"{path} is neither UTF-8 nor GB 18030: convert it")
