"""Sources and targets of any length as a batch for an encoder with a decoder."""

from collections.abc import Sequence

import numpy as np


def pad_pairs(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    source_length: int,
    target_length: int,
) -> dict[str, np.ndarray]:
    """Pads pairs to one length each.

    Args:
      pairs: (source, target) token ids, each with its EOS; two empty arrays are a pair of weight 0.
      source_length, target_length: S and D, at least the longest of each.

    Returns:
      source [n, S] int32; source_mask [n, S] int32, 1 where real; targets [n, D] int32; weights
      [n, D] float32, 1 where real. Padding is token 0.
    """
    count = len(pairs)
    source = np.zeros((count, source_length), np.int32)
    targets = np.zeros((count, target_length), np.int32)
    source_mask = np.zeros((count, source_length), np.int32)
    weights = np.zeros((count, target_length), np.float32)
    for row, (given, asked) in enumerate(pairs):
        source[row, : len(given)] = given
        source_mask[row, : len(given)] = 1
        targets[row, : len(asked)] = asked
        weights[row, : len(asked)] = 1
    # A pair of weight 0 still sees one token, so that its softmax has something to sum.
    source_mask[:, 0] = 1
    return {
        "source": source,
        "source_mask": source_mask,
        "targets": targets,
        "weights": weights,
    }
