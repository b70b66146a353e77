"""Normalization: named steps from text to text, each of which changes nothing when done again.

Full width. Pretraining corpora of Chinese keep its punctuation and fold what is not Chinese about
full-width text; so does `width`: letters, digits and signs become ASCII, the eight marks of
GB/T 15834 among them (，：；！？（）～) stay, half-width kana, Hangul and Japanese punctuation
become full.

Orders that make sense: mojibake, markup, unicode, width, control, white_space. `white_space` is for
prose; `code_white_space` keeps indentation and alignment.
"""

# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import re
import unicodedata
from collections.abc import Callable, Iterable

from llm_jax.configuration import ConfigError, nearest
from llm_jax.data.cleaning.markup import strip_markup

_LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]+")
_BLANKS_AT_LINE_ENDS = re.compile(r" ?\n ?")

_KEPT_FULL_WIDTH = "，：；！？（）～"
_TO_ASCII = {0x3000: " "} | {
    code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in _KEPT_FULL_WIDTH
}
# Half-width kana, Hangul and arrows, full-width currency; not the macron, which is no letter alone.
_COMPATIBLE = re.compile("[\uff5f-\uffdf\uffe0-\uffe2\uffe4-\uffee]+")

# Characters without a glyph: control characters but tab and newline, soft hyphen, bidirectional
# and invisible marks, byte order mark, tags, surrogates, private use, noncharacters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0, 0xF0000, 0x10000))
    + "]+"
)
# Joiners spell Persian and Indic words and emoji; next to ASCII, a blank or an end they are noise.
_JOINERS = re.compile(r"(?<![^\x00-\x7f\s])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\x7f\s])")


def _mojibake(text: str) -> str:
    """Turns text that was decoded in a wrong encoding back (ftfy's fix_encoding), line by line."""
    if text.isascii():
        return text
    import ftfy

    # A line that is whole must not keep ftfy from mending another.
    lines = text.split("\n")
    return "\n".join(line if line.isascii() else ftfy.fix_encoding(line) for line in lines)


def _unicode(text: str) -> str:
    """Composes characters (NFC). NFKC would also turn "x²" into "x2" and "…" into "..."."""
    return unicodedata.normalize("NFC", text)


def _width(text: str) -> str:
    """Folds full-width ASCII and half-width kana; see the file's docstring."""
    if text.isascii():
        return text
    text = text.translate(_TO_ASCII)
    return _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)


def _line_ends(text: str) -> str:
    return _LINE_END.sub("\n", text)


def _control(text: str) -> str:
    """Takes out what has no glyph; line ends of any kind become newlines, tabs stay."""
    return _JOINERS.sub("", _INVISIBLE.sub("", _line_ends(text)))


def _white_space(text: str) -> str:
    """Folds runs of blanks into one space and of line ends into at most two; strips the ends."""
    text = _BLANKS_AT_LINE_ENDS.sub("\n", _BLANKS.sub(" ", _line_ends(text)))
    return re.sub("\n{3,}", "\n\n", text).strip()


def _code_white_space(text: str) -> str:
    """Strips the ends of lines, and empty lines at both ends and above two in a row."""
    text = "\n".join(line.rstrip() for line in _line_ends(text).split("\n"))
    return re.sub("\n{4,}", "\n\n\n", text).strip("\n")


STEPS: dict[str, Callable[[str], str]] = {
    "mojibake": _mojibake,
    "markup": strip_markup,
    "unicode": _unicode,
    "width": _width,
    "control": _control,
    "white_space": _white_space,
    "code_white_space": _code_white_space,
}


def clean(text: str, steps: Iterable[str]) -> str:
    """Returns `text` after the `steps` called by name, in the order given.

    Raises:
      ConfigError: an unknown name.
    """
    for name in steps:
        if name not in STEPS:
            raise ConfigError(
                f"{name!r} is no cleaning step: {nearest(name, STEPS)} (all: {', '.join(STEPS)})"
            )
        text = STEPS[name](text)
    return text
