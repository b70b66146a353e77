"""The Python of the pages on splits and on augmentation, run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.augmentation.thesauri import CILIN, write_wordnet
from tests.data.dedup.synthetic import families

DOCS = Path(__file__).parents[2] / "docs"


def run(page, names, **replaced):
    """Runs the blocks of a page one after the other; returns the names that they leave."""
    blocks = re.findall(
        r"```python\n(.+?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL
    )
    assert blocks
    for block in blocks:
        for old, new in replaced.items():
            block = block.replace(old, new)
        exec(compile(block, page, "exec"), names)
    return names


def test_splits(capsys):
    pytest.importorskip("sklearn")
    texts, _ = families(0, 120)
    names = run("splits.md", {"texts": texts, "labels": np.arange(120) % 4 // 3})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["train", "validation", "0"], ["train", "test", "0"], ["validation", "test", "0"]
    ]  # fmt: skip
    assert len(names["rows"]) == 120
    assert len(names["train"]) == 96
    assert names["weights"].shape == (2,)


def save_bert(folder, words):
    transformers = pytest.importorskip("transformers")
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": len(vocabulary), "hidden_size": 16, "max_position_embeddings": 64}
    config = transformers.BertConfig(**sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")


def save_t5(folder, words):
    transformers = pytest.importorskip("transformers")
    import tokenizers

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = transformers.T5Config(vocab_size=len(vocabulary), **sizes, **ends)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))


@pytest.mark.slow
def test_text_augmentation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["the", "quick", "car", "film", "dogs", "walk", "well", "and", "stop", "brown"]
    save_bert(tmp_path / "bert_folder", words)
    save_t5(tmp_path / "t5_folder", words)
    (tmp_path / "wordnet").mkdir()
    write_wordnet(tmp_path / "wordnet")
    (tmp_path / "cilin.txt").write_text(CILIN, encoding="utf-8")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 8)) for _ in range(10)]
    given = {
        "texts": texts,
        "labels": [0, 1] * 5,
        "waveform": random.standard_normal(16_000),
        "noise": random.standard_normal(5_000),
        "log_mels": random.standard_normal((2, 300, 80)).astype(np.float32),
    }
    names = run("text_augmentation.md", given, **{"/usr/share/wordnet": "wordnet"})
    assert len(names["train_texts"]) == len(names["train_labels"]) == 50
    assert "看" in capsys.readouterr().out
    assert len(names["more"].texts) == 2
    assert np.any(np.asarray(names["masked"]) != names["log_mels"])
