import dataclasses

import numpy as np
import pytest
from PIL import Image

from llm_jax.data import DataConfig, batches, load_tokenizer, open_split, prepare
from llm_jax.data.objectives import MaskedLM, SpanCorruption
from llm_jax.data.shown import draw, lines
from tests.data.conftest import write_texts
from tests.data.test_labelled_rows import prepared, rows_of


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("short"), files=60, lines=3)


def opened(texts, directory, objective=None, **changes):
    config = DataConfig(source="text", path=str(texts), sequence_length=48)
    given = {} if objective is None else {"objective": objective}
    prepare(dataclasses.replace(config, **changes), vocab_size=400, directory=directory, **given)
    return open_split(directory, "train", **given), load_tokenizer(directory)


def randoms(count):
    return [np.random.default_rng(index) for index in range(count)]


@pytest.mark.parametrize("cross", [True, False])
def test_a_row_s_documents_are_told(texts, tmp_path, cross):
    rows, tokenizer = opened(texts, tmp_path / "data", cross_document_attention=cross)
    batch = rows.take([0, len(rows) - 1])
    said = lines(batch, tokenizer)
    text = "".join(tokenizer.decode([i]) or "|" for i in batch["tokens"][0].tolist())
    first = "\n".join(said[1 : next(i for i, line in enumerate(said) if line.startswith("row 1"))])
    # The text stands there as it is, each document behind its number.
    found = "".join(line[7:] if line[:5].strip() else "\n" + line[7:] for line in first.split("\n"))
    assert found.replace("⟨bos⟩", "|").replace("⟨eos⟩", "|") == text
    numbers = [line[:5].strip() for line in first.split("\n") if line[:5].strip()]
    documents = 1 if cross else int(batch["segment_ids"][0].max())
    assert numbers == [str(number + 1) for number in range(documents)]
    assert "48 tokens" in said[0]
    # The last row's padding is no token.
    real = int(np.flatnonzero(batch["weights"][1])[-1]) + 1
    assert real < 48
    assert f"row 1: {real} tokens, {np.count_nonzero(batch['weights'][1])} asked for" in said


def test_hidden_tokens_stand_beside_what_is_asked(texts, tmp_path):
    rows, tokenizer = opened(texts, tmp_path / "data", MaskedLM(mask_rate=0.3))
    batch = rows.take([0], randoms(1))
    text = "".join(line[6:] for line in lines(batch, tokenizer)[1:])
    count = int(batch["weights"].sum())
    assert text.count("→") == count > 10
    place, target = batch["picked"][0][0], batch["targets"][0][0]
    seen = tokenizer.decode([batch["tokens"][0][place]]) or "⟨mask⟩"
    assert f"{{{seen}→{tokenizer.decode([target])}}}".replace("\n", "") in text


def test_pairs_are_told(texts, tmp_path):
    rows, tokenizer = opened(texts, tmp_path / "data", SpanCorruption())
    batch = rows.take([0], randoms(1))
    reads, writes = "\n".join(lines(batch, tokenizer)).split("reads  ")[1].split("\n  writes ")
    assert reads.startswith(tokenizer.decode(batch["source"][0])[:4])
    assert reads.index("⟨extra_id_0⟩") < reads.index("⟨extra_id_1⟩")
    assert writes.startswith("⟨extra_id_0⟩")
    assert writes.endswith("⟨eos⟩")


def picture(batch, path, causal=True):
    draw(batch, str(path), causal=causal, title="a title")
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)


def has(pixels, colour):
    want = np.frombuffer(bytes.fromhex(colour), np.uint8).astype(int)
    return bool((np.abs(pixels - want).max(axis=1) <= 1).any())


def test_pictures(texts, tmp_path):
    rows, _ = opened(texts, tmp_path / "plain", cross_document_attention=False)
    plain = picture(rows.take([0, 1]), tmp_path / "a.png")
    assert [has(plain, colour) for colour in ("8fb8de", "f2c48d", "c8371f")] == [True, True, False]
    rows, _ = opened(texts, tmp_path / "masked", MaskedLM())
    batch = rows.take([0, 1], randoms(2))
    assert has(picture(batch, tmp_path / "b.png"), "c8371f")
    both, one = (picture(batch, tmp_path / "c.png", causal=causal) for causal in (False, True))
    blue = np.array([8, 48, 107])
    counts = [np.all(np.abs(each - blue) <= 1, axis=1).sum() for each in (both, one)]
    assert counts[0] > 1.5 * counts[1] > 0


def test_images_and_their_masks(tmp_path):
    batch = {
        "pixels": np.zeros((3, 1, 8, 12), np.float32),
        "labels": np.array([4, 5, 6], np.int32),
        "weights": np.array([1, 1, 0], np.float32),
    }
    assert lines(batch, None)[2] == "row 2: label 6, weight 0"
    mixed = batch | {"labels": np.array([[0, 1, 0], [0.25, 0, 0.75], [1, 0, 0]], np.float32)}
    assert lines(mixed, None)[:2] == [
        "row 0: label 100% 1, weight 1",
        "row 1: label 75% 2, 25% 0, weight 1",
    ]
    batch["pixels"][:, :, 0] = 1
    red = np.array([round(0.4 * x) for x in (0xC8, 0x37, 0x1F)])
    assert not (np.abs(picture(batch, tmp_path / "a.png") - red).max(axis=1) <= 2).any()
    batch["masked"] = np.zeros((3, 6), bool)
    batch["masked"][1, 4] = True  # the second patch of the second row
    assert (np.abs(picture(batch, tmp_path / "b.png") - red).max(axis=1) <= 2).any()


def test_labelled_texts_are_shown_with_their_label(tmp_path):
    _, parts = prepared(tmp_path, rows_of(60))
    batch = next(batches(parts["train"], seed=0, batch_size=4, threads=0))
    tokenizer = load_tokenizer(tmp_path / "data")
    found = lines(batch, tokenizer)
    for row in range(4):
        size, label = batch["mask"][row].sum(), batch["labels"][row]
        assert f"row {row}: {size} tokens, label {label}" in found
    assert sum("⟨bos⟩" in line and "⟨eos⟩" in line for line in found) == 4
    draw(batch, str(tmp_path / "batch.png"), causal=False, title="labels")
    assert (tmp_path / "batch.png").stat().st_size > 1000
