"""A text as words and what stands between them; nothing is lost, so that it can be put together.

A word is a run of letters, digits and combining marks, with hyphens and apostrophes inside. Of
Han characters each is a word, or the longest run of them that a lexicon has (forward maximum
matching), as nothing else says where Chinese words end.
"""

import functools
import re
import unicodedata
from collections.abc import Container

_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LONGEST_HAN_WORD = 8

# The closed classes of English: they carry little of a text's meaning and have no synonyms.
ENGLISH_STOP_WORDS = frozenset(
    """a about above after again against all also although am among an and another any anybody
    anyone anything are aren't around as at be because been before being below between both but by
    can can't cannot could couldn't did didn't do does doesn't doing don't down during each either
    every everybody everyone everything few for from further had hadn't has hasn't have haven't
    having he he'd he'll he's her here hers herself him himself his how however i i'd i'll i'm i've
    if in into is isn't it it's its itself just let's may me might mine more most must mustn't my
    myself neither never no nobody none nor not nothing now of off on once one only onto or other
    others ought our ours ourselves out over own per quite rather same shall shan't she she'd
    she'll she's should shouldn't since so some somebody someone something still such than that
    that's the their theirs them themselves then there there's these they they'd they'll they're
    they've this those though through thus till to too toward towards under unless until up upon
    us very was wasn't we we'd we'll we're we've were weren't what what's when where whether which
    while who whoever whom whose why will with within without won't would wouldn't yet you you'd
    you'll you're you've your yours yourself yourselves""".split()  # noqa: SIM905
)


def split_words(text: str, lexicon: Container[str] = ()) -> tuple[list[str], list[str]]:
    """Returns the n words of `text`, and the n + 1 gaps before, between and behind them."""
    words, gaps, end = [], [], 0
    for match in _pattern().finditer(text):
        own = [match[0]] if not match[1] else _longest_matches(match[1], lexicon)
        words += own
        gaps += [text[end : match.start()], *[""] * (len(own) - 1)]
        end = match.end()
    return words, [*gaps, text[end:]]


def join_words(words: list[str], gaps: list[str]) -> str:
    """Returns the text of `split_words`."""
    return "".join(part for pair in zip(gaps, [*words, ""]) for part in pair)


def is_han(text: str) -> bool:
    """Whether `text` begins with a Han character."""
    return re.match(f"[{_HAN}]", text) is not None


def with_case_of(word: str, original: str) -> str:
    """Returns `word` in capitals, or with one in front, where `original` has them."""
    if len(original) > 1 and original.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if original[:1].isupper() else word


@functools.cache
def _pattern() -> re.Pattern:
    # What Python's \w leaves out: the marks that Indic and other scripts write vowels with.
    marks = "".join(
        chr(c) for c in range(0x300, 0x1_0000) if unicodedata.category(chr(c))[0] == "M"
    )
    letter = rf"[^\W_{_HAN}][{marks}]*"
    return re.compile(rf"([{_HAN}]+)|(?:{letter})+(?:['\u2019-](?:{letter})+)*")


def _longest_matches(run: str, lexicon: Container[str]) -> list[str]:
    words, start = [], 0
    while start < len(run):
        lengths = range(min(_LONGEST_HAN_WORD, len(run) - start), 1, -1)
        length = next((n for n in lengths if run[start : start + n] in lexicon), 1)
        words.append(run[start : start + length])
        start += length
    return words
