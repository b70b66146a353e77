"""Personal data in English and Chinese text: where it stands, and the text with it masked.

`KINDS` is the table: the forms of each kind, with their patterns and what must hold of a match.

What is no personal data here, by choice:
- addresses of machines that are private, loopback, link-local, multicast or for documentation: they
  lead to no person. `1.2.3.4` behind "version", "v", "==" and the like is a version; without such a
  word, four numbers with dots count as an address, a section's number included;
- mail addresses whose domain ends in none that is known (`icon@2x.png`, `x@self.weight`), and
  `git@host:`;
- ten digits without separators, or local numbers, but behind a word such as "tel" or 电话;
- resident ids of 15 digits (before 1999, without check digit), Chinese domain names, persons' names
  and postal addresses.
One in forty random numbers of 16 digits is a card by issuer and check digit: no pattern can tell.
"""

from bisect import bisect
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llm_jax.data.cleaning.personal_form import Form, Windows
from llm_jax.data.cleaning.personal_networks import EMAILS, IPS, KEYS
from llm_jax.data.cleaning.personal_numbers import CARDS, IBANS, PHONES, RESIDENT_IDS, SSNS

KINDS: dict[str, tuple[Form, ...]] = {
    "key": KEYS,
    "china_id": RESIDENT_IDS,
    "us_ssn": SSNS,
    "iban": IBANS,
    "card": CARDS,
    "email": EMAILS,
    "phone": PHONES,
    "ip": IPS,
}


class Span(NamedTuple):
    """Characters `start` up to `end` of a text, and what they are."""

    start: int
    end: int
    kind: str


def find(text: str, kinds: Iterable[str] = tuple(KINDS)) -> list[Span]:
    """Returns the personal data in `text`, in order and without overlaps.

    Of two that overlap the longer stays, of equal ones the kind that is first in `KINDS`.

    Args:
      text: with half-width digits and letters; full-width ones are found after normalization.
      kinds: names of `KINDS`.
    """
    windows: dict[Callable, Windows] = {}
    found = set()
    for rank, (kind, forms) in enumerate(KINDS.items()):
        for form in forms if kind in kinds else ():
            if form.windows not in windows:
                windows[form.windows] = form.windows(text)
            for begin, end in windows[form.windows]:
                for match in form.pattern.finditer(text, begin, end):
                    if form.valid(match):
                        start, end = match.span("value" if "value" in match.re.groupindex else 0)
                        found.add((start - end, rank, Span(start, end, kind)))
    kept: list[Span] = []
    for _, _, span in sorted(found):
        place = bisect(kept, span)
        free_before = not place or kept[place - 1].end <= span.start
        if free_before and (place == len(kept) or span.end <= kept[place].start):
            kept.insert(place, span)
    return kept


def mask(text: str, spans: Iterable[Span]) -> str:
    """Returns `text` with each of `spans`, as `find` gives them, replaced by its `<KIND>`."""
    pieces, end = [], 0
    for span in spans:
        pieces += text[end : span.start], f"<{span.kind.upper()}>"
        end = span.end
    return "".join([*pieces, text[end:]])
