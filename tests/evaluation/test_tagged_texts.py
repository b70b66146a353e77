"""Entities of texts, and the report of a test, from what a head says: here a table says it."""

import types

import numpy as np
import pytest

from llm_jax.data import TokenizerConfig
from llm_jax.data.tokenizers import train_tokenizer
from llm_jax.evaluation import tags
from tests.data.test_tagged import prepared, sentences

metrics = pytest.importorskip("seqeval.metrics")
NAMES = ["B-nr", "B-ns", "I-nr", "I-ns", "O"]
TAGS = {"江": "B-nr", "泽": "I-nr", "民": "I-nr", "北": "B-ns", "京": "I-ns"}
LOGIT = {"江": 1.0, "泽": 3.0, "民": 2.0, "北": 5.0, "京": 5.0}


@pytest.fixture
def tokenizer(monkeypatch):
    """Of characters; what a model would say of a token follows from the token."""
    found = train_tokenizer(
        ["江泽民在北京见。"] * 9, vocab_size=300, config=TokenizerConfig(max_piece_length=1)
    )
    table = np.zeros((found.vocab_size, len(NAMES)), np.float32)
    table[:, NAMES.index("O")] = 4
    table[list(found.marks), NAMES.index("B-nr")] = 9  # which nobody asks for
    for character, tag in TAGS.items():
        row = table[found.encode(character)[0]]
        row[:] = 0
        row[NAMES.index(tag)] = LOGIT[character]

    def read_rows(model, params, rows, *, batch_size):
        for begin in range(0, len(rows), batch_size):
            indices = np.arange(begin, begin + batch_size)
            yield table[rows.take(np.where(indices < len(rows), indices, -1))["tokens"]]

    monkeypatch.setattr(tags, "read_rows", read_rows)
    return found


def test_each_text_has_its_own_entities_at_their_places(tokenizer):
    manifest = types.SimpleNamespace(
        inputs={"units": "characters"}, sequence_length=10, pad_id=0, labels={"names": NAMES}
    )
    texts = ["见 江 泽民。", "在", "北京北京", "京。", "在江泽民见在在在北京", " "]
    found = tags.predict(None, None, tokenizer, texts, manifest, batch_size=2)
    assert [one["text"] for one in found] == texts
    said = [[(e["type"], e["begin"], e["end"]) for e in one["entities"]] for one in found]
    assert said == [
        [("nr", 2, 6)], [], [("ns", 0, 2), ("ns", 2, 4)], [("ns", 0, 1)], [("nr", 1, 4)], [],
    ]  # fmt: skip
    assert found[0]["entities"][0]["text"] == "江 泽民"
    assert [one.get("cut", False) for one in found] == [False] * 4 + [True, False]
    least = np.exp(1) / (np.exp(1) + 4)  # the surname's
    assert found[0]["entities"][0]["probability"] == pytest.approx(least, abs=1e-6)


def test_the_report_shows_types_and_the_worst_sentences(tmp_path):
    _, (_, _, rows) = prepared(tmp_path, list(sentences()))
    names = rows.manifest.labels["names"]
    said = [
        np.eye(len(names), dtype=np.float32)[rows.labels[rows.own(row)]] for row in range(len(rows))
    ]
    assert set(tags.judged(said, rows).values()) == {1.0}
    worst = len(rows) - 1
    said[worst] = np.roll(said[worst], 1, axis=1)
    scores = tags.judged(said, rows)
    found, right = tags._tags(said, rows)
    hits, there, wanted = np.sum([tags._counts(*both) for both in zip(found, right)], axis=0)
    assert there != wanted
    assert (scores["precision"], scores["recall"]) == (hits / there, hits / wanted)
    assert scores["f1"] < 1 > scores["accuracy"]
    tags.report(str(tmp_path), said, rows, costs={"seconds": 1.5})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Test\n")
    assert f"| F1 of entities | **{scores['f1']:.4f} [" in text
    assert f"| precision | {scores['precision']:.4f} |" in text
    assert "1 have an error." in text
    assert text.count("right: ") == 1
    assert rows.texts()[worst].replace("\x1f", "") in text
    for kind in ("nr", "ns"):
        support = sum(tag.startswith(("B-", "I-")) and tag[2:] == kind and
                      (tag[0] == "B" or not n or one[n - 1][2:] != kind)
                      for one in right for n, tag in enumerate(one))  # fmt: skip
        assert f"| {kind} | {support} |" in text
