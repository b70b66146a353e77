"""The shuffled join finds what the search on one machine does, however it is divided."""

import numpy as np
import pytest

from llm_jax.data.dedup import NearDuplicates, near_duplicates, shuffle
from tests.data.dedup import synthetic


def shuffled(texts, settings, folder, *, block, partitions):
    blocks = [range(at, min(at + block, len(texts))) for at in range(0, len(texts), block)]
    files = [folder / f"{number}" for number in range(len(blocks))]
    dealt = [
        shuffle.sign(own, texts.__getitem__, settings, partitions, file)
        for own, file in zip(blocks, files)
    ]
    width = settings.num_permutations
    signatures = np.concatenate([np.fromfile(file, np.uint32).reshape(-1, width) for file in files])
    return shuffle.merge(len(texts), [
        shuffle.join([own[p] for own in dealt], texts.__getitem__, signatures.__getitem__, settings)
        for p in range(partitions)
    ])  # fmt: skip


@pytest.mark.parametrize(("block", "partitions"), [(400, 1), (37, 5), (1, 3)])
def test_blocks_and_partitions_change_nothing(block, partitions, tmp_path):
    texts, _ = synthetic.families(3, 300, lowest=0.6, largest=8)
    texts[100:100] = ["", texts[7], "... ,", *[texts[9] + "!" * n for n in range(40)], "天地玄黄"]
    # Not many rows to a band, so that pairs meet in several bands and many that differ meet.
    settings = NearDuplicates(threshold=0.7, num_permutations=64)
    whole = near_duplicates(len(texts), texts.__getitem__, settings, tmp_path / "whole")
    found = shuffled(texts, settings, tmp_path, block=block, partitions=partitions)
    np.testing.assert_array_equal(found, whole)
    assert 60 < (whole != np.arange(len(texts))).sum() < len(texts) - 60


def test_a_chain_across_partitions_is_one_component(tmp_path):
    """a and c are similar only through b."""
    words = [f"w{n}" for n in range(60)]
    texts = [" ".join(words[at : at + 50]) for at in (0, 5, 10)]
    settings = NearDuplicates(threshold=0.75)
    found = shuffled(texts, settings, tmp_path, block=1, partitions=64)
    assert found.tolist() == [0, 0, 0]
    alone = shuffled(texts[::2], settings, tmp_path, block=1, partitions=64)
    assert alone.tolist() == [0, 1]
