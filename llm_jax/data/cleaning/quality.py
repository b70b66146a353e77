"""Quality rules of C4, Gopher and FineWeb: each has a name, one statistic and one threshold.

`LINE_RULES` throw lines out of a text (`keep_lines`), `RULES` throw whole documents out (`check`).
C4's document rules are meant for what its line rules leave, as in its reference code (TFDS's
`c4_utils`).

Sources: C4 is Raffel et al. 2020, section 2.2 (arXiv:1910.10683); Gopher is Rae et al. 2021,
appendix A.1.1 with table A1 (arXiv:2112.11446); FineWeb is Penedo et al. 2024, section 3.6
(arXiv:2406.17557). Where they leave something open it is as in datatrove 0.10.1, and so it is
where these differ from their paper:
- C4: an apostrophe ends a line too; lines with a word above 1,000 characters or with words about
  cookies and terms of use go (both in C4's code, not in the paper).
- `fineweb_line_ends` stands in FineWeb's code, not in the paper.
The paper, not datatrove, is followed for `fineweb_repeated_line_characters`: 0.1, there 0.01.
One thing is ours: Chinese and Japanese punctuation ends a line or sentence, a Han character is a
word. For such text leave out `gopher_word_length_min` and `gopher_stop_words`.
"""

# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

from llm_jax.configuration import ConfigError, nearest
from llm_jax.data.cleaning.text_statistics import Statistics, cjk_characters


@dataclasses.dataclass(frozen=True)
class Rule:
    """Throws out what lies below `minimum` or above `maximum` (one of them is given).

    Attributes:
      name: what reports call it.
      statistic: of `Statistics`, or of a line in `LINE_STATISTICS`.
      n: the length of n-grams, for statistics that take it.
      minimum, maximum: the threshold; the value itself is kept.
    """

    name: str
    statistic: str
    n: int | None = None
    minimum: float | None = None
    maximum: float | None = None

    def refuses(self, value: float) -> bool:
        """Returns whether `value` is beyond the threshold."""
        if self.minimum is not None:
            return value < self.minimum
        return value > self.maximum

    def measure(self, statistics: Statistics) -> float:
        """Returns this rule's statistic of a document."""
        value = getattr(statistics, self.statistic)
        return value if self.n is None else value(self.n)


def _table(*rules: Rule) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


# fmt: off
LINE_RULES = _table(
    Rule("c4_line_punctuation", "punctuation", minimum=1),
    Rule("c4_line_words", "words", minimum=3),
    Rule("c4_line_word_length", "longest_word", maximum=1000),
    Rule("c4_line_javascript", "javascript", maximum=0),
    Rule("c4_line_policy", "policies", maximum=0),
)

RULES = _table(
    Rule("c4_lorem_ipsum", "lorem_ipsum", maximum=0),
    Rule("c4_curly_bracket", "curly_brackets", maximum=0),
    Rule("c4_sentences", "sentences", minimum=5),
    Rule("gopher_words_min", "words", minimum=50),
    Rule("gopher_words_max", "words", maximum=100_000),
    Rule("gopher_word_length_min", "mean_word_length", minimum=3),
    Rule("gopher_word_length_max", "mean_word_length", maximum=10),
    Rule("gopher_hashes", "hashes_per_token", maximum=0.1),
    Rule("gopher_ellipses", "ellipses_per_token", maximum=0.1),
    Rule("gopher_bullet_lines", "bullet_lines", maximum=0.9),
    Rule("gopher_ellipsis_lines", "ellipsis_lines", maximum=0.3),
    Rule("gopher_alphabetic_words", "alphabetic_tokens", minimum=0.8),
    Rule("gopher_stop_words", "stop_words", minimum=2),
    Rule("gopher_duplicate_paragraphs", "duplicate_paragraphs", maximum=0.3),
    Rule("gopher_duplicate_paragraph_characters", "duplicate_paragraph_characters", maximum=0.2),
    Rule("gopher_duplicate_lines", "duplicate_lines", maximum=0.3),
    Rule("gopher_duplicate_line_characters", "duplicate_line_characters", maximum=0.2),
    Rule("gopher_top_2_gram", "top_n_gram", 2, maximum=0.2),
    Rule("gopher_top_3_gram", "top_n_gram", 3, maximum=0.18),
    Rule("gopher_top_4_gram", "top_n_gram", 4, maximum=0.16),
    Rule("gopher_duplicate_5_grams", "duplicate_n_grams", 5, maximum=0.15),
    Rule("gopher_duplicate_6_grams", "duplicate_n_grams", 6, maximum=0.14),
    Rule("gopher_duplicate_7_grams", "duplicate_n_grams", 7, maximum=0.13),
    Rule("gopher_duplicate_8_grams", "duplicate_n_grams", 8, maximum=0.12),
    Rule("gopher_duplicate_9_grams", "duplicate_n_grams", 9, maximum=0.11),
    Rule("gopher_duplicate_10_grams", "duplicate_n_grams", 10, maximum=0.10),
    Rule("fineweb_punctuated_lines", "punctuated_lines", minimum=0.12),
    Rule("fineweb_short_lines", "short_lines", maximum=0.67),
    Rule("fineweb_repeated_line_characters", "repeated_line_characters", maximum=0.1),
    Rule("fineweb_line_ends", "line_ends_per_token", maximum=0.3),
)
# fmt: on

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_LINE_PUNCTUATION = tuple(".?!\"'。！？”’")
_ELLIPSIS = "..."
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


def _punctuation(line: str) -> int:
    return line.endswith(_LINE_PUNCTUATION) and not line.endswith(_ELLIPSIS)


def _policies(line: str) -> int:
    line = line.lower()
    return sum(policy in line for policy in _POLICIES)


# Of a line, stripped and without citation marks.
LINE_STATISTICS: dict[str, Callable[[str], int]] = {
    "punctuation": _punctuation,
    "words": lambda line: len(line.split()) + cjk_characters(line),
    "longest_word": lambda line: max(map(len, line.split()), default=0),
    "javascript": lambda line: line.lower().count("javascript"),
    "policies": _policies,
}


def select(
    names: Iterable[str],
    thresholds: Mapping[str, float] | None = None,
    known: Mapping[str, Rule] = RULES,
) -> tuple[Rule, ...]:
    """Returns the rules called `names`, in that order.

    Args:
      names: of `known`.
      thresholds: rule name -> value in place of the table's.
      known: `RULES` or `LINE_RULES`.

    Raises:
      ConfigError: an unknown rule, a threshold for one that is not among `names`, or one that is
        no number.
    """
    names, thresholds = tuple(names), dict(thresholds or {})
    for name in names:
        if name not in known:
            raise ConfigError(f"{name!r} is no quality rule: {nearest(name, known)}")
    for name, value in thresholds.items():
        if name not in names:
            raise ConfigError(f"a threshold is given for {name!r}: {nearest(name, names)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ConfigError(f"the threshold of {name} is {value!r}: give a number")
    return tuple(_with_threshold(known[name], thresholds.get(name)) for name in names)


def _with_threshold(rule: Rule, value: float | None) -> Rule:
    if value is None:
        return rule
    bound = "minimum" if rule.minimum is not None else "maximum"
    return dataclasses.replace(rule, **{bound: value})


def check(text: str | Statistics, rules: Iterable[Rule] = tuple(RULES.values())) -> str | None:
    """Returns the name of the first of `rules` that throws `text` out, or None if it is kept.

    Only what the rules up to that one need is measured, so cheap rules belong in front. Give
    `Statistics` in place of the text to keep what was measured.
    """
    statistics = Statistics(text) if isinstance(text, str) else text
    for rule in rules:
        if rule.refuses(rule.measure(statistics)):
            return rule.name
    return None


def keep_lines(text: str, rules: Iterable[Rule] = tuple(LINE_RULES.values())) -> str:
    """Returns the lines of `text`, stripped and without citation marks, that no rule throws out.

    Citation marks are Wikipedia's: [1], [edit], [citation needed].
    """
    lines = [line.strip() for line in text.splitlines()]
    if "[" in text:
        lines = [_CITATION.sub("", line) if "[" in line else line for line in lines]
    for rule in rules:
        statistic = LINE_STATISTICS[rule.statistic]
        if rule.minimum is not None:
            lines = [line for line in lines if statistic(line) >= rule.minimum]
        else:
            lines = [line for line in lines if statistic(line) <= rule.maximum]
    return "\n".join(lines)
