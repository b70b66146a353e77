"""Rows a second that each objective of text makes, on one thread: no disk, no tokenizer.

python -m tests.data.benchmark_objectives
"""

import time

from llm_jax.data.objectives import OBJECTIVES, MaskedLM
from tests.data.objective_rows import generators, rows_of, vocabulary

ROWS, LENGTH = 256, 512


def rate(objective) -> float:
    """Returns the rows a second of the fastest of five batches."""
    rows, lengths = rows_of(ROWS, objective.record_length(LENGTH))
    words, best = vocabulary(), 0.0
    for seed in range(5):
        randoms = generators(ROWS, seed)
        began = time.perf_counter()
        objective.batch(rows, lengths, randoms, words, LENGTH, others=(rows, lengths))
        best = max(best, ROWS / (time.perf_counter() - began))
    return best


def main() -> None:
    """Prints a line for each."""
    objectives = [cls() for cls in OBJECTIVES.values() if cls.kind == "text"]
    for objective in [*objectives, MaskedLM(unit="word"), MaskedLM(unit="span")]:
        print(f"{rate(objective):9.0f} rows/s of {LENGTH} tokens  {objective}")


if __name__ == "__main__":
    main()
