import hashlib
import subprocess
import sys

import pytest

from llm_jax.configuration import ConfigError, parse
from llm_jax.data import DataConfig
from llm_jax.data.sources import cut_tail, open_source


def of(path, **kwargs):
    return open_source(DataConfig(source="text", path=str(path), **kwargs))


def names(source, split):
    return [document.name for document in source.documents(split)]


def by_shell(name):
    digest = subprocess.run(
        ["sha256sum"], input=name.encode(), capture_output=True, check=True
    ).stdout.split()[0]
    return int(digest, 16) % 20 == 0


def test_files_are_held_out_by_the_hash_of_their_relative_path(texts):
    source = of(texts)
    held = names(source, "validation")
    every = sorted(p.relative_to(texts).as_posix() for p in texts.rglob("*.txt"))
    assert held == [name for name in every if by_shell(name)]
    assert names(source, "train") == [name for name in every if not by_shell(name)]
    assert held
    assert not source.cut_within_files


def test_library_is_its_modules_without_tests_and_encodings():
    source = open_source(DataConfig())
    train, held = names(source, "train"), names(source, "validation")
    assert {"argparse.py", "asyncio/base_events.py", "email/message.py"} <= set(train + held)
    every = sorted(train + held)
    assert not [n for n in every if {"test", "tests", "encodings"} & set(n.split("/"))]
    assert not [n for n in every if "site-packages" in n or "idle_test" in n or "/test_" in n]
    assert len(every) > 400
    for name in every[::25]:
        digest = hashlib.sha256(name.encode()).hexdigest()
        assert (int(digest, 16) % 20 == 0) == (name in held)


def test_library_bytes_are_the_files_bytes():
    source = open_source(DataConfig())
    document = next(d for d in source.documents("train") if d.name == "argparse.py")
    import argparse

    with open(argparse.__file__, "rb") as file:
        assert document.text.encode() == file.read()


def test_one_file_is_cut_after_a_line_end(tmp_path):
    path = tmp_path / "book.txt"
    text = "".join(f"line {i}\r\n" for i in range(1000))
    path.write_bytes(text.encode())
    source = of(path)
    (train,), (held,) = source.documents("train"), source.documents("validation")
    assert source.cut_within_files
    assert train.text + held.text == text
    assert train.text.endswith("\n")
    assert 0.04 * len(text) < len(held.text) <= 0.05 * len(text)


@pytest.mark.parametrize("text", ["", "one line", "x\n", "a\nb\n", "no end\nof line"])
def test_cut_keeps_all_text(text):
    assert "".join(cut_tail(text)) == text


def test_hidden_files_are_left_out_and_commas_join(tmp_path):
    for name in ("a.txt", "b.md", ".hidden", ".git/config", "sub/c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("some words\n" * 50)
    assert names(of(tmp_path), "train") == ["a.txt", "b.md", "sub/c"]
    pair = of(f"{tmp_path / 'b.md'}, {tmp_path / 'a.txt'}")
    assert names(pair, "train") == ["b.md", "a.txt"]


def test_content_counts_and_place_does_not(tmp_path):
    for folder, text in (("a", "same\n"), ("b", "same\n"), ("c", "sane\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(text * 100)
    digests = [of(tmp_path / folder).content_sha256 for folder in "abc"]
    assert digests[0] == digests[1] != digests[2]


def refused(call, *parts):
    with pytest.raises(ConfigError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def test_text_that_is_not_utf8_is_refused_with_its_offset(tmp_path):
    (tmp_path / "good.txt").write_text("good\n" * 100)
    (tmp_path / "latin.txt").write_bytes(b"caf" + "é".encode("latin-1") + b" au lait\n")
    refused(lambda: of(tmp_path), "latin.txt", "byte 3", "0xe9", "UTF-8")


def test_empty_text_is_refused(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text(" \n\n")
    refused(lambda: of(path), str(path), "no text")
    refused(lambda: of(tmp_path), str(tmp_path), "no text")


def test_text_too_short_for_two_splits_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("one line without an end")
    refused(lambda: of(path), str(path), "too short")


def test_missing_path_is_refused(tmp_path):
    refused(lambda: of(tmp_path / "nowhere"), "nowhere", "not there")


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"source": "texts"}, ["'texts'", "did you mean 'text'"]),
        ({"source": "text"}, ["data.path is empty"]),
        ({"path": "a.txt"}, ["data.path", "'a.txt'", "'stdlib'"]),
        ({"sequence_length": 0}, ["data.sequence_length", "0"]),
        ({"sequence_lenght": 8}, ["did you mean 'sequence_length'"]),
        ({"read_threads": -1}, ["data.read_threads"]),
        ({"tokenizer": {"sample_bytes": 0}}, ["data.tokenizer.sample_bytes"]),
        ({"tokenizer": {"max_piece_length": 0}}, ["data.tokenizer.max_piece_length"]),
    ],
)
def test_impossible_configurations_are_refused(mapping, parts):
    refused(lambda: parse(DataConfig, mapping, "data"), *parts)


def test_importing_the_room_is_light():
    script = (
        "import sys, llm_jax.data; heavy = {'tensorflow', 'tensorflow_datasets', 'grain', 'jax'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
