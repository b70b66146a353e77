import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, load_manifest, load_tokenizer, open_split, prepare
from llm_jax.data.sources import open_source


def documents(rows, tokenizer):
    """The split's documents, read back from its rows."""
    stream = [int(rows[0]["tokens"][0])]
    for row in rows:
        real = row["segment_ids"] > 0
        stream.extend(row["targets"][real].tolist())
    texts, start = [], 0
    for index, token in enumerate(stream):
        if token == tokenizer.eos_id:
            assert stream[start] == tokenizer.bos_id
            texts.append(tokenizer.decode(stream[start + 1 : index]))
            start = index + 1
    assert start == len(stream)
    return texts


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_hold_the_split_and_the_manifest_counts_it(config, prepared, split):
    rows, manifest = open_split(prepared, split), load_manifest(prepared)
    texts = [d.text for d in open_source(config).documents(split)]
    assert documents(rows, load_tokenizer(prepared)) == texts
    assert manifest.documents[split] == rows.documents == len(texts)
    assert manifest.bytes[split] == rows.bytes == sum(len(t.encode()) for t in texts)
    assert manifest.rows[split] == len(rows)
    weights = sum(rows[i]["weights"].sum() for i in range(len(rows)))
    assert manifest.tokens[split] == rows.tokens == weights


def test_manifest_names_every_file_with_its_checksum(prepared):
    manifest = load_manifest(prepared)
    there = {p.relative_to(prepared).as_posix() for p in prepared.rglob("*") if p.is_file()}
    assert set(manifest.files) == there - {"manifest.json"}
    for name, digest in manifest.files.items():
        assert hashlib.sha256((prepared / name).read_bytes()).hexdigest() == digest
    assert manifest.tokenizer_sha256 == manifest.files["tokenizer.model"]
    assert manifest.tokens_sha256["train"] == manifest.files["tokens-train.array_record"]


def test_preparing_again_uses_what_is_there(config, prepared):
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*")}
    assert prepare(config, vocab_size=400, directory=prepared) == load_manifest(prepared)
    assert {p: p.stat().st_mtime_ns for p in prepared.rglob("*")} == before


def test_the_same_text_elsewhere_gives_the_same_tokens(texts, prepared, tmp_path, config):
    shutil.copytree(texts, tmp_path / "copy")
    moved = dataclasses.replace(config, path=str(tmp_path / "copy"), read_threads=0)
    manifest = prepare(moved, vocab_size=400, directory=tmp_path / "data")
    assert manifest.tokens_sha256 == load_manifest(prepared).tokens_sha256
    assert manifest.tokenizer_sha256 == load_manifest(prepared).tokenizer_sha256
    assert prepare(moved, vocab_size=400, directory=prepared)


def test_a_long_document_stays_one(tmp_path, monkeypatch):
    from llm_jax.data import documents as store

    monkeypatch.setattr(store, "PART_CHARACTERS", 50)
    text = "".join(f"line {i} of a long file\n" for i in range(200)) + "x" * 180 + "\nend\n"
    (tmp_path / "long.txt").write_text(text)
    config = DataConfig(source="text", path=str(tmp_path / "long.txt"), sequence_length=16)
    manifest = prepare(config, vocab_size=300, directory=tmp_path / "data")
    assert manifest.documents == {"train": 1, "validation": 1}
    assert manifest.hold_out == "file ends"
    tokenizer = load_tokenizer(tmp_path / "data")
    whole = [documents(open_split(tmp_path / "data", s), tokenizer)[0] for s in manifest.documents]
    assert "".join(whole) == text


def refused(call, *parts):
    with pytest.raises(ConfigError) as error:
        call()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "vocab_size", "parts"),
    [
        ({"sequence_length": 16}, 400, ["sequence_length (there 32, asked for 16)"]),
        ({"cross_document_attention": True}, 400, ["cross_document_attention"]),
        ({}, 300, ["vocab_size (there 400, asked for 300)"]),
    ],
)
def test_data_of_another_configuration_is_refused(config, prepared, changes, vocab_size, parts):
    other = dataclasses.replace(config, **changes)
    refused(lambda: prepare(other, vocab_size=vocab_size, directory=prepared), *parts, "delete")


def test_changed_text_is_refused(texts, prepared, config, tmp_path):
    shutil.copytree(texts, tmp_path / "copy")
    with next((tmp_path / "copy").rglob("*.txt")).open("a") as file:
        file.write("one more line\n")
    other = dataclasses.replace(config, path=str(tmp_path / "copy"))
    refused(lambda: prepare(other, vocab_size=400, directory=prepared), "content_sha256")


@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
@pytest.mark.parametrize("name", ["tokens-train.array_record", "tokenizer.model"])
def test_harm_to_a_file_is_refused_by_name(config, copy, harm, name):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    refused(lambda: prepare(config, vocab_size=400, directory=copy), str(path), "delete")
    refused(lambda: open_split(copy, "train"), str(path), "delete")


def test_harm_to_the_documents_and_the_manifest_is_refused_by_name(config, copy):
    document = next(copy.glob("documents/**/*train*"))
    document.write_bytes(document.read_bytes()[:-1])
    refused(lambda: prepare(config, vocab_size=400, directory=copy), document.name)
    for text in ("{", '{"format": 1}', "[]"):
        (copy / "manifest.json").write_text(text)
        refused(lambda: open_split(copy, "train"), "manifest.json", "damaged")
    (copy / "manifest.json").unlink()
    refused(lambda: open_split(copy, "train"), "manifest.json", "no prepared data")
    refused(lambda: prepare(config, vocab_size=400, directory=copy), str(copy), "move it away")


def test_unknown_split_is_refused(prepared):
    refused(lambda: open_split(prepared, "test"), "'test'", "train, validation")


def test_failure_leaves_nothing_behind(config, tmp_path, monkeypatch):
    from llm_jax.data import packing

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_rows", full)
        refused(
            lambda: prepare(config, vocab_size=300, directory=tmp_path / "data"),
            str(tmp_path / "data"),
            "No space left",
        )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data").mkdir()
    prepare(config, vocab_size=300, directory=tmp_path / "data")


def test_killed_preparation_is_begun_again(config, tmp_path):
    script = (
        "import sys, time, llm_jax.data.packing as packing\n"
        "from llm_jax.data import DataConfig, prepare\n"
        "packing.write_rows = lambda *_: (print('half way', flush=True), time.sleep(60))\n"
        "prepare(DataConfig(source='text', path=sys.argv[1], sequence_length=32), vocab_size=300,"
        " directory=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, config.path, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "data.partial").exists()
    assert not (tmp_path / "data").exists()
    prepare(config, vocab_size=300, directory=tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert len(open_split(tmp_path / "data", "train"))


def test_directory_that_cannot_be_made_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(
        lambda: prepare(config, vocab_size=300, directory=tmp_path / "file" / "data"),
        "cannot be written",
    )
    refused(lambda: prepare(config, vocab_size=300, directory=tmp_path / "file"), "move it away")


def test_preparing_needs_no_tensorflow_and_prints_nothing(config, tmp_path):
    script = (
        "import sys; from llm_jax.data import DataConfig, batches, open_split, prepare\n"
        "prepare(DataConfig(source='text', path=sys.argv[1]), vocab_size=300,"
        " directory=sys.argv[2])\n"
        "next(batches(open_split(sys.argv[2], 'train'), seed=0, batch_size=2))\n"
        "sys.exit(3 if 'tensorflow' in sys.modules else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, config.path, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.slow
def test_library_prepares_quickly_and_compresses(tmp_path):
    start = time.perf_counter()
    manifest = prepare(DataConfig(), vocab_size=4096, directory=tmp_path / "data")
    assert time.perf_counter() - start < 60
    assert manifest.hold_out == "files"
    assert manifest.bytes["validation"] / manifest.tokens["validation"] > 3.9
    assert 0.02 < manifest.bytes["validation"] / manifest.bytes["train"] < 0.1
    rows, tokenizer = open_split(tmp_path / "data", "validation"), load_tokenizer(tmp_path / "data")
    texts = [d.text for d in open_source(DataConfig()).documents("validation")]
    assert documents(rows, tokenizer) == texts
    assert np.all(rows[0]["positions"] == np.arange(256))
    json.dumps(dataclasses.asdict(manifest))
    assert os.path.getsize(tmp_path / "data" / "tokens-train.array_record") < 8e6
