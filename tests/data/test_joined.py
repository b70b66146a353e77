import dataclasses

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import open_split, prepare
from llm_jax.data.joined import JoinedRows


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_joined_rows_are_those_of_data_prepared_at_that_length(config, tmp_path, split, cross):
    def rows(length):
        asked = dataclasses.replace(config, sequence_length=length, cross_document_attention=cross)
        prepare(asked, vocab_size=400, directory=tmp_path / f"{length}")
        return open_split(tmp_path / f"{length}", split)

    joined, expected = JoinedRows(rows(32), 96), rows(96)
    assert len(joined) == len(expected)
    assert (joined.tokens, joined.bytes) == (expected.tokens, expected.bytes)
    order = np.array([len(expected) - 1, -1, 0])
    for indices in (order, np.arange(len(expected))):
        got, wanted = joined.take(indices), expected.take(indices)
        assert got.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


@pytest.mark.parametrize("length", [0, 16, 48])
def test_a_length_that_is_no_multiple_is_refused(prepared, length):
    with pytest.raises(ConfigError, match=f"sequence_length is {length}.*rows of 32"):
        JoinedRows(open_split(prepared, "train"), length)
