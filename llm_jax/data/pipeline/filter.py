"""One document through the filters: what it becomes, and which rule throws it away."""

import dataclasses
import zlib

from llm_jax.data.cleaning import language, normalize, personal, quality
from llm_jax.data.cleaning.text_statistics import Statistics
from llm_jax.data.cleaning.words import WordList
from llm_jax.data.pipeline.config import Filtering

# Where no language is asked for, the report still tells those of so many, chosen by their text.
IDENTIFIED_ONE_IN = 16


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a document.

    Attributes:
      text: cleaned, with personal data masked if asked.
      rule: that throws it away, None where it stays.
      language: identified, "" where it was not.
      personal: how many spans of each kind of personal data it has.
    """

    text: str
    rule: str | None
    language: str = ""
    personal: dict = dataclasses.field(default_factory=dict)


class Filter:
    """The filters of a configuration, cheap ones first."""

    def __init__(self, config: Filtering):
        self._config = config
        lines, documents = config.rule_names()
        of = config.thresholds
        self._lines = quality.select(
            lines, {name: of[name] for name in lines if name in of}, quality.LINE_RULES
        )
        self._rules = quality.select(
            documents, {name: of[name] for name in documents if name in of}
        )
        self._words = WordList.load(config.words, config.allowed_words) if config.words else None

    def __call__(self, text: str) -> Verdict:
        """Judges a document."""
        config = self._config
        text = normalize.clean(text, config.steps)
        if self._lines:
            text = quality.keep_lines(text, self._lines)
        if not text.strip():
            return Verdict(text, "empty")
        if self._words is not None and self._words.find(text):
            return Verdict(text, "words")
        if rule := quality.check(Statistics(text), self._rules):
            return Verdict(text, rule)
        code = ""
        chosen = zlib.crc32(text.encode("utf-8", "surrogatepass")) % IDENTIFIED_ONE_IN == 0
        if config.languages or chosen:
            code, probability = language.identify(text)
        known = code != language.UNDETERMINED
        if (
            config.languages
            and known
            and (code not in config.languages or probability < config.min_probability)
        ):
            return Verdict(text, "language", code)
        if config.personal == "keep":
            return Verdict(text, None, code)
        spans = personal.find(text, config.kinds)
        found: dict[str, int] = {}
        for span in spans:
            found[span.kind] = found.get(span.kind, 0) + 1
        if spans and config.personal == "remove":
            return Verdict(text, "personal", code, found)
        return Verdict(personal.mask(text, spans), None, code, found)
