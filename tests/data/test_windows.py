"""Long texts in windows: the tokenizer's own, batched as wide as they need."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig, prepare
from llm_jax.data.objectives import OBJECTIVES
from tests.data.test_labelled_rows import rows_of
from tests.data.test_pretrained_tokenizer_rows import bert_folder


def prepared(tmp_path, **changes):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows_of(80)))
    if not (tmp_path / "bert").exists():
        bert_folder(tmp_path / "bert")
    config = DataConfig(
        path=str(path), tokenizer=TokenizerConfig(path=str(tmp_path / "bert")),
        **{"source": "labelled", "sequence_length": 80, "window": 16} | changes,
    )  # fmt: skip
    objective = OBJECTIVES["text_classification"]()
    manifest = prepare(config, vocab_size=0, directory=tmp_path / "data", objective=objective)
    return manifest, data.open_split(tmp_path / "data", "train", objective)


def test_windows_are_the_tokenizer_s(tmp_path):
    manifest, train = prepared(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "data" / "tokenizer.json"))
    backend.enable_truncation(16)
    batch = train.take(range(len(train)))
    cut = 0
    assert batch["tokens"].shape == batch["mask"].shape == (64, 5, 16)
    for row, text in enumerate(train.texts()):
        want = backend.encode(text)
        want = [want.ids, *(one.ids for one in want.overflowing)]
        cut += len(want) > 5
        for window in range(5):
            own = batch["tokens"][row, window][batch["mask"][row, window] > 0].tolist()
            assert own == (want[window] if window < len(want) else [])
    assert 0 < cut == manifest.labels["cut"]["train"]


def test_a_batch_has_as_many_windows_as_it_needs(tmp_path):
    _, train = prepared(tmp_path)
    assert train.take([0, -1])["tokens"].shape == (2, 1, 8)  # a row of one short window
    for index in (3, 6):
        needed = -(-train.sizes[index] // 16)
        assert 1 < needed < 5, needed
        assert train.take([0, index])["tokens"].shape == (2, needed, 16)
    wide = train.take([0], length=80)
    assert wide["tokens"].shape == (1, 5, 16)
    np.testing.assert_array_equal(wide["tokens"][:, :1, :8], train.take([0])["tokens"])
    assert wide["mask"].sum() == train.sizes[0]


def test_what_no_window_is_is_one_line(tmp_path):
    for changes, said in (
        ({"window": 4}, "data.window is 4"),
        ({"window": 24}, "data.window is 24 and data.sequence_length 80"),
        ({"second": "other"}, "no pairs"),
        ({"source": "tagged"}, "labelled texts"),
    ):
        with pytest.raises(ConfigError, match=said):
            prepared(tmp_path, **changes)
