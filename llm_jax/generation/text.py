"""The generation room's text: tokens become characters as they arrive, cut at stop strings."""

from llm_jax.configuration import ConfigError


def check_stop(stop: tuple[str, ...]) -> None:
    """Raises ConfigError if a stop string is empty."""
    if not all(isinstance(word, str) and word for word in stop):
        raise ConfigError(f"stop is {list(stop)!r}: give strings of at least one character")


class TextStream:
    """The text of one row, released as soon as it is certain to be part of the result.

    Bytes that do not complete a character are held back, and so is whatever might be the
    beginning of a stop string. What `push` and `finish` return, put together, is `text`.

    Args:
      decoder: has `push(token) -> str` and `flush() -> str`, as `Tokenizer.stream()` gives; None
        keeps the text empty.
      stop: strings that end the text; the one that is complete first cuts it where it begins.

    Attributes:
      text: what was released so far.
      stopped: whether a stop string was found.
    """

    def __init__(self, decoder, stop: tuple[str, ...] = ()):
        self._decoder = decoder
        self._stop = stop
        self._pieces: list[str] = []
        self._held = ""
        self.stopped = False

    @property
    def text(self) -> str:
        """Returns what was released so far."""
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """Takes one token; returns the text that it releases, possibly none."""
        return self._release(self._decoder.push(token)) if self._decoder else ""

    def finish(self) -> str:
        """Ends the text; returns the rest of it. Bytes of an unfinished character are U+FFFD."""
        if self._decoder is None or self.stopped:
            return ""
        released = self._release(self._decoder.flush())
        if not self.stopped:
            released += self._held
            self._pieces.append(self._held)
            self._held = ""
        return released

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        found = [
            (start + len(word), start)
            for word in self._stop
            if (start := self._held.find(word)) >= 0
        ]
        if found:
            cut = min(found)[1]
            self.stopped = True
        else:
            cut = len(self._held) - self._uncertain()
        released, self._held = self._held[:cut], self._held[cut:]
        self._pieces.append(released)
        return released

    def _uncertain(self) -> int:
        """Returns how many characters at the end may begin a stop string."""
        return max(
            (
                size
                for word in self._stop
                for size in range(1, min(len(word), len(self._held) + 1))
                if self._held.endswith(word[:size])
            ),
            default=0,
        )
