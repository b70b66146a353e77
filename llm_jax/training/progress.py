"""The progress line: updated in place on a terminal, plain lines in a log."""

import sys

import jax


def duration(seconds: float) -> str:
    """Returns `seconds` as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def count(number: float) -> str:
    """Returns `number` in thousands, millions, ... with three digits, such as 12.3M."""
    suffixes = ["", "k", "M", "G", "T", "P"]
    while abs(number) >= 999.5 and len(suffixes) > 1:
        number, suffixes = number / 1000, suffixes[1:]
    return f"{number:.3g}{suffixes[0]}"


class Progress:
    """One line on stderr that says where training is; of several processes the first's."""

    def __init__(self, steps: int):
        self._steps = steps
        self._live = sys.stderr.isatty()
        self._silent = jax.process_index() != 0

    def show(self, step: int, values: dict[str, float], elapsed: float, remaining: float) -> None:
        """Shows the line of `step`.

        Args:
          step: steps taken.
          values: loss, learning_rate, gradient_norm, tokens_per_second, mfu.
          elapsed: seconds trained so far.
          remaining: seconds expected until the last step.
        """
        if self._silent:
            return
        line = (
            f"step {step}/{self._steps}  loss {values['loss']:.4f}  "
            f"lr {values['learning_rate']:.2e}  grad {values['gradient_norm']:.3f}  "
            f"{count(values['tokens_per_second'])} tokens/s  MFU {values['mfu']:.1%}  "
            f"{duration(elapsed)} elapsed, {duration(remaining)} left"
        )
        if skipped := int(values["skipped"]):
            line += f"  ({skipped} steps skipped)"
        if self._live:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints `text` on a line of its own."""
        if self._silent:
            return
        print(f"\r\x1b[K{text}" if self._live else text, file=sys.stderr, flush=True)
