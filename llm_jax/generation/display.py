"""The generation room's terminal: texts one after the other, the first as it grows."""

import sys

# What a model makes up may hold control characters; a terminal is shown their symbols instead.
_SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_SYMBOLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class Display:
    """Shows texts one after the other, the first unfinished one as it grows."""

    def __init__(self, prompts: list[str]):
        self._prompts = prompts
        self._waiting = [""] * len(prompts)
        self._ended = [False] * len(prompts)
        self._row = -1
        self._next()

    def on_token(self, row: int, text: str) -> None:
        """Takes a piece of a row's text."""
        if row == self._row:
            self._write(text)
        else:
            self._waiting[row] += text

    def on_end(self, row: int) -> None:
        """Ends a row; what is ready behind it follows."""
        self._ended[row] = True
        while self._row < len(self._ended) and self._ended[self._row]:
            self._write("\n")
            self._next()

    def _next(self) -> None:
        self._row += 1
        if self._row < len(self._prompts):
            if len(self._prompts) > 1:
                self._write(f"--- {self._row + 1} of {len(self._prompts)} ---\n")
            self._write(self._prompts[self._row] + self._waiting[self._row])

    def _write(self, text: str) -> None:
        sys.stdout.write(text.translate(_SYMBOLS))
        sys.stdout.flush()
