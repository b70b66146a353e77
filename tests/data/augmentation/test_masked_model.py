"""Masked replacement by a tiny random BERT, its likeliest words against those of transformers."""

import collections
import json

import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.data import load_tokenizer
from llm_jax.data.augmentation.text import MaskedReplacement, augment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["the", "cat", "dog", "sat", "on", "a", "mat", "and", "ran", "far", "away", "in", "old"]
HAN = list("我们今天去公园看电影")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "[", "]", "mask", "3",
              *WORDS, *HAN, *("##" + piece for piece in ("s", "ing", "们", ".ed"))]  # fmt: skip
TEXT = "The cat sat, and the DOG ran far away in 3 houses."


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    peer = transformers.BertForMaskedLM(config).eval()
    peer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    config, params = interop.load_pretrained(folder)
    return peer, (models.build(config), params, load_tokenizer(folder))


def expected(peer, tokenizer, masked, original, candidates):
    """The candidates but for the original, the likeliest first, and their logits."""
    ids = tokenizer.encode(masked)
    with torch.no_grad():
        logits = peer(input_ids=torch.tensor([ids])).logits[0, ids.index(4)].numpy()
    others = [word for word in candidates if word != original]
    others.sort(key=lambda word: -logits[VOCABULARY.index(word)])
    return others, np.array([logits[VOCABULARY.index(word)] for word in others], np.float64)


def replaced(original, text):
    """Which words were replaced by which, of texts with the same gaps."""
    pairs = [(a, b) for a, b in zip(original.split(), text.split(), strict=True) if a != b]
    return [(a.strip(",."), b.strip(",.")) for a, b in pairs]


def test_the_likeliest_word_is_that_of_transformers(bert):
    peer, checkpoint = bert
    operation = MaskedReplacement(*checkpoint, share=0.01, top_k=1)
    seen = set()
    for text in augment([TEXT], None, [operation], seed=0, copies=80).texts:
        ((old, new),) = replaced(TEXT, text)
        masked = TEXT.replace(old, "[MASK]", 1)
        best, _ = expected(peer, checkpoint[2], masked, old.lower(), [*WORDS, "mask"])
        assert new.lower() == best[0]
        # In the capitals of what stood there.
        assert new == (best[0].upper() if old == "DOG" else
                       best[0].capitalize() if old == "The" else best[0])  # fmt: skip
        seen.add(old)
    assert seen == {"The", "cat", "sat", "and", "the", "DOG", "ran", "far", "away", "in", "3",
                    "houses"}  # fmt: skip


def test_words_are_drawn_by_their_probabilities(bert):
    peer, checkpoint = bert
    operation = MaskedReplacement(*checkpoint, top_k=3)
    texts = augment(["cat"], None, [operation], seed=0, copies=1500).texts
    words, logits = expected(peer, checkpoint[2], "[MASK]", "cat", [*WORDS, "mask"])
    shares = np.exp(logits[:3]) / np.exp(logits[:3]).sum()
    counts = collections.Counter(texts)
    assert set(counts) <= set(words[:3])
    for word, share in zip(words, shares):
        assert abs(counts[word] / 1500 - share) < 0.05


def test_chinese_characters_for_chinese_ones(bert):
    peer, checkpoint = bert
    operation = MaskedReplacement(*checkpoint, share=0.01, top_k=1)
    text = "我们去公园."
    for changed in augment([text], None, [operation], seed=0, copies=30).texts:
        ((place, new),) = [(i, b) for i, (a, b) in enumerate(zip(text, changed)) if a != b]
        masked = f"{text[:place]}[MASK]{text[place + 1 :]}"
        best, _ = expected(peer, checkpoint[2], masked, text[place], HAN)
        assert new == best[0]


def test_all_masks_of_a_text_and_each_text_alone(bert):
    _, checkpoint = bert
    operation = MaskedReplacement(*checkpoint, share=0.5)
    texts = [
        TEXT,
        "a cat",
        "",
        "?",
        "we [MASK] on [MASK].",
        "我们 sat",
        *[TEXT[4 * i :] for i in range(15)],
    ]
    more = augment(texts, None, [operation], seed=0, copies=2)
    assert len(replaced(TEXT, more.texts[0])) == 6
    assert more.texts[4:8] == ["", "", "?", "?"]
    # What reads like a mask is a word among others.
    assert all(text.count("[") == 2 and text != texts[4] for text in more.texts[8:10])
    alone = augment(texts[:2], None, [operation], seed=0, copies=1)
    assert alone.texts == [more.texts[0], more.texts[2]]


def test_what_cannot_serve_is_refused(bert):
    _, (model, params, tokenizer) = bert
    with pytest.raises(ConfigError, match="a text has 52 tokens, the model 40 positions"):
        augment(
            ["cat " * 50], None, [MaskedReplacement(model, params, tokenizer)], seed=0, copies=1
        )
    with pytest.raises(ConfigError, match="the bert model has no masked-LM head"):
        MaskedReplacement(models.build(models.parse_config({"family": "bert"})), None, tokenizer)
    with pytest.raises(ConfigError, match="share is 0"):
        MaskedReplacement(model, params, tokenizer, share=0)
    with pytest.raises(ConfigError, match="top_k is 0"):
        MaskedReplacement(model, params, tokenizer, top_k=0)
    words = len(WORDS) + len(HAN) + 1
    with pytest.raises(ConfigError, match=f"top_k is {words}: give less than the {words} whole"):
        MaskedReplacement(model, params, tokenizer, top_k=words)
