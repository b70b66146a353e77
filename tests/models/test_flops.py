import numpy as np
import pytest

from llm_jax.kernels.mask import Mask
from llm_jax.kernels.pattern import Pattern
from llm_jax.models.flops import row_keys

SPARSE = Pattern("block_sparse", block_size=8, window_blocks=3, global_blocks=1, random_blocks=2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("window", "pattern"), [(None, Pattern()), (40, Pattern()), (500, Pattern()), (None, SPARSE)]
)
def test_a_token_costs_the_keys_that_its_mask_allows(window, pattern, causal):
    length = 256
    mask = Mask(window=window, causal=causal, pattern=pattern)
    seen = np.asarray(mask.dense(length, length))[0].sum() / length
    keys = row_keys(length, head_dim=64, window=window, pattern=pattern, causal=causal)
    # The diagonal is counted half: a part of length / 2.
    assert seen * (2 if causal else 1) == pytest.approx(keys, abs=1.01)


def test_linear_attention_costs_the_same_at_any_length():
    short, long = (row_keys(n, head_dim=64, pattern=Pattern("linear")) for n in (128, 32_768))
    assert short == long == 128
    assert row_keys(128, head_dim=64, pattern=Pattern("linear"), causal=False) == 64
