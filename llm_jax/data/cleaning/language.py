"""Language identification by py3langid (naive Bayes over byte n-grams, Lui & Baldwin 2012).

The model comes with the package and is loaded on first use, in about a second. Codes are those of
ISO 639, and "und" for what is too short to tell.
"""

import copy
from collections.abc import Callable, Iterable
from functools import lru_cache
from threading import Lock

from llm_jax.configuration import ConfigError, nearest

UNDETERMINED = "und"
# UTF-8 bytes of letters below which there is no answer: five Chinese or fifteen English ones.
_MIN_LETTER_BYTES = 15
# A longer text is judged by this many parts of it, evenly spread: the model reads 1 MB a second.
_PARTS = 4
_PART_CHARACTERS = 1000

# Threads that ask first wait for one of them to load the model.
_LOADING = Lock()


def identify(text: str, languages: Iterable[str] | None = None) -> tuple[str, float]:
    """Returns the language of `text` and its probability in [0, 1], to four digits.

    Args:
      text: of a long one, four parts of 1,000 characters are read.
      languages: the answer is one of these, and the probability is among these; None: any.

    Returns:
      ("und", 0.0) for a text with too few letters.

    Raises:
      ConfigError: an unknown language.
    """
    identifier = _identifier(None if languages is None else tuple(sorted(set(languages))))
    text = _sample(text)
    letters = "".join(filter(str.isalpha, text))
    if len(letters.encode("utf-8", "surrogatepass")) < _MIN_LETTER_BYTES:
        return UNDETERMINED, 0.0
    code, probability = identifier.classify(text)
    return code, round(probability, 4)


def keep(languages: Iterable[str], min_probability: float) -> Callable[[str], bool]:
    """Returns a rule: is a text in one of `languages`, with at least `min_probability`?

    The text is compared with all languages, not with these alone. "und" keeps short texts, whatever
    the probability.

    Raises:
      ConfigError: no language, an unknown one, or a probability outside [0, 1].
    """
    languages = frozenset(languages)
    if not languages - {UNDETERMINED}:
        raise ConfigError("no languages are given to keep: give codes such as 'en' or 'zh'")
    if not 0 <= min_probability <= 1:
        raise ConfigError(f"min_probability is {min_probability!r}: give a number from 0 to 1")
    _identifier(tuple(sorted(languages - {UNDETERMINED})))

    def kept(text: str) -> bool:
        code, probability = identify(text)
        return code in languages and (code == UNDETERMINED or probability >= min_probability)

    return kept


def _sample(text: str) -> str:
    if len(text) <= _PARTS * _PART_CHARACTERS:
        return text
    last = len(text) - _PART_CHARACTERS
    begins = [last * part // (_PARTS - 1) for part in range(_PARTS)]
    return "\n".join(text[begin : begin + _PART_CHARACTERS] for begin in begins)


def _identifier(languages: tuple[str, ...] | None):
    """Returns py3langid's identifier for these languages, never changed: threads share it."""
    with _LOADING:
        return _whole() if languages is None else _restricted(languages)


@lru_cache(maxsize=1)
def _whole():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=16)
def _restricted(languages: tuple[str, ...]):
    whole = _whole()
    if not languages:
        raise ConfigError("languages is empty: give codes such as 'en' or 'zh'")
    for language in languages:
        if language not in whole.labels:
            raise ConfigError(f"language {language!r}: {nearest(language, whole.labels)}")
    restricted = copy.copy(whole)
    restricted.set_languages(languages)
    return restricted
