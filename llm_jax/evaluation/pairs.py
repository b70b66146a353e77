"""How well an encoder-decoder writes the targets of held-out pairs, by itself."""

import itertools
import re
from collections import Counter

import numpy as np

from llm_jax.data import PairRows, eval_batches
from llm_jax.generation.beam import BeamOptions, decode_sources

# Where a name goes on with another part: `readLine`, `HTTPServer`, `utf8`.
_SEAM = re.compile(
    r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)"
)
_WORD = re.compile(r"[^\W_]+")


def write_targets(
    model, params, rows: PairRows, tokenizer, *, batch_size: int, num_beams: int = 1
) -> tuple[list[tuple[str, str, str]], dict[str, float]]:
    """Writes the target of every pair and compares it with the true one.

    Args:
      model: a `llm_jax.models.Model` of an encoder-decoder of text.
      params: its parameters.
      rows: the pairs.
      tokenizer: of the pairs.
      batch_size: pairs written together.
      num_beams: 1 writes the likeliest token every time.

    Returns:
      (source, target, written) of every pair, in order, and the figures `exact_match`, the share
      that is written to the letter, and `word_f1`, the mean over pairs of the F1 of words (with
      their number, whatever their order or case).
    """
    options = BeamOptions(num_beams=num_beams, max_new_tokens=rows.target_length)
    vocab_size = min(model.config.vocab_size, tokenizer.vocab_size)
    found = []
    for batch in eval_batches(rows, batch_size=batch_size):
        inputs = {"input_ids": batch["source"], "attention_mask": batch["source_mask"]}
        beams = decode_sources(
            model, params, inputs, options, end_ids=(tokenizer.eos_id,), vocab_size=vocab_size
        )
        written = zip(np.asarray(beams.tokens)[:, 0], np.asarray(beams.lengths)[:, 0])
        for source, mask, target, weights, (tokens, length) in zip(
            batch["source"], batch["source_mask"], batch["targets"], batch["weights"], written
        ):
            parts = source[mask > 0], target[weights > 0], tokens[:length]
            found.append(tuple(tokenizer.decode(part.tolist()) for part in parts))
    found = list(itertools.islice(found, len(rows)))
    return found, {
        "exact_match": float(np.mean([target == text for _, target, text in found])),
        "word_f1": float(np.mean([word_f1(target, text) for _, target, text in found])),
    }


def word_f1(target: str, text: str) -> float:
    """Returns the F1 of the words of `text` against those of `target`, 0 to 1.

    The parts of a name are words: `readLine` and `read_line` have the same two. As in code2seq
    (Alon et al. 2018, arXiv:1808.01400), but counted pair by pair.
    """
    wanted, given = (Counter(_words(part)) for part in (target, text))
    if not wanted or not given:
        return float(wanted == given)
    both = (wanted & given).total()
    return 2 * both / (wanted.total() + given.total())


def _words(text: str) -> list[str]:
    return _WORD.findall(_SEAM.sub(" ", text).lower())
