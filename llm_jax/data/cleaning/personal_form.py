"""A form of personal data: a pattern, what must hold of its matches, and where to look at all.

Patterns are slow where text is clean, and most text is. `marked` and `near` find cheaply the few
windows that could hold a match.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

Windows = list[tuple[int, int]]


def always(match: re.Match) -> bool:
    """Any match is valid."""
    return True


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of a kind of personal data.

    Attributes:
      pattern: what it looks like; a group `value` is the part that counts.
      windows: gives the parts of a text that could hold one, in order.
      valid: whether a match of `pattern` is one.
    """

    pattern: re.Pattern
    windows: Callable[[str], Windows]
    valid: Callable[[re.Match], bool] = always


def everywhere(text: str) -> Windows:
    """The whole text: for patterns that begin with rare characters."""
    return [(0, len(text))]


def marked(marks: tuple[str, ...], *, before: int, after: int) -> Callable[[str], Windows]:
    """Returns windows around each of `marks`, by the characters before and after its begin."""

    def windows(text: str) -> Windows:
        found = []
        for mark in marks:
            at = text.find(mark)
            while at >= 0:
                found.append((at, at))
                at = text.find(mark, at + 1)
        return _around(sorted(found), before, after)

    return windows


def near(pattern: re.Pattern, *, before: int, after: int) -> Callable[[str], Windows]:
    """Returns windows around the matches of `pattern`, with characters before and after them."""
    return lambda text: _around((match.span() for match in pattern.finditer(text)), before, after)


def before(match: re.Match) -> str:
    """The 40 characters before `match`."""
    return match.string[max(0, match.start() - 40) : match.start()]


def _around(spans: Iterable[tuple[int, int]], before: int, after: int) -> Windows:
    """Those that touch become one: no part of a text is looked at twice."""
    windows: Windows = []
    for start, end in spans:
        if windows and start - before <= windows[-1][1]:
            windows[-1] = windows[-1][0], end + after
        else:
            windows.append((max(0, start - before), end + after))
    return windows
