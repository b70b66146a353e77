"""The pipeline throws away what it should, whatever the workers and the interruptions."""

import dataclasses
import fcntl
import json
import random

import pytest

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data.cleaned import DOCUMENTS, DocumentRecords, open_cleaned
from llm_jax.data.pipeline import parts, run
from llm_jax.data.pipeline.config import Deduplication, Filtering, PipelineConfig, Reading
from llm_jax.data.readers import files_of

WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvz"]
MAIL = "ann@example.org"


def sentence(chance, count=40):
    return " ".join(chance.choice(WORDS) for _ in range(count)) + "."


@pytest.fixture
def raw(tmp_path):
    """Six files of JSON lines: 60 documents, and 3 copies, 3 near-copies, 2 blank, 2 bad ones."""
    chance = random.Random(0)
    texts = [sentence(chance) for _ in range(60)]
    near = [text[:-1] + " indeed." for text in texts[:3]]
    mail = f"{texts[5][:-1]} {MAIL}."
    texts[5] = mail
    rows = [*texts, *texts[10:13], *near, " \n ", "\u200b"]
    lines = [json.dumps({"body": text, "name": f"d{n}"}) for n, text in enumerate(rows)]
    lines[20:20] = ["not json", json.dumps({"name": "x"})]
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jsonl").write_text("\n".join(lines[number::6]) + "\n")
    return folder


def config_of(folder, **changes):
    reading = Reading(str(folder), text="body", id="name", max_bad_share=0.1)
    return dataclasses.replace(PipelineConfig(reading), **changes)


def clean(folder, workdir, **changes):
    return run.clean(config_of(folder, **changes), workdir, lambda line: None)


def files_in(workdir):
    return {
        path.relative_to(workdir).as_posix(): path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def small_parts(monkeypatch):
    """More of them than files."""
    monkeypatch.setattr(parts, "PART_BYTES", 1500)


def test_what_was_planted_is_thrown_away_and_counted(raw, tmp_path):
    manifest = clean(raw, tmp_path / "run")
    assert manifest["removed"] == {"empty": 2, "exact_duplicate": 3, "near_duplicate": 3}
    assert (manifest["documents_in"], manifest["documents_out"]) == (68, 60)
    assert (manifest["bad_records"], manifest["personal"]) == (2, {"email": 1})
    kept = list(DocumentRecords([tmp_path / "run" / "cleaned" / DOCUMENTS]))
    assert len({document["id"] for document in kept}) == 60
    (masked,) = [document["text"] for document in kept if document["id"] == "d5"]
    assert MAIL not in masked
    assert masked.endswith("<EMAIL>.")
    assert manifest["bytes_out"] == sum(len(document["text"]) for document in kept)
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad.jsonl").read_text().splitlines()]
    assert {line["file"] for line in bad} == {"2.jsonl", "3.jsonl"}
    assert not (tmp_path / "run" / "parts").exists()


def test_two_workers_leave_the_bytes_that_one_does(raw, tmp_path, small_parts):
    clean(raw, tmp_path / "one")
    clean(raw, tmp_path / "two", workers=2)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")


def test_the_size_of_a_part_changes_nothing(raw, tmp_path, monkeypatch):
    clean(raw, tmp_path / "large")
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    clean(raw, tmp_path / "small")
    assert files_in(tmp_path / "large") == files_in(tmp_path / "small")


def test_a_run_that_was_stopped_goes_on_with_the_missing_parts(
    raw, tmp_path, small_parts, monkeypatch
):
    clean(raw, tmp_path / "whole")
    write, written = parts.write_part, []

    def until_the_third(files, config, folder):
        if len(written) == 3:
            written.append("stopped")
            raise KeyboardInterrupt
        written.append(folder.name)
        write(files, config, folder)

    monkeypatch.setattr(run, "write_part", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        clean(raw, tmp_path / "run")
    clean(raw, tmp_path / "run")
    numbers = [f"{number:05}" for number in range(len(parts.divide(files_of(raw))))]
    assert len(numbers) > 6
    assert written == [*numbers[:3], "stopped", *numbers[3:]]
    assert files_in(tmp_path / "run") == files_in(tmp_path / "whole")
    written.clear()
    clean(raw, tmp_path / "run")
    assert not written


def test_rules_words_and_languages_remove_by_name(raw, tmp_path):
    words = tmp_path / "words.txt"
    first = json.loads((raw / "0.jsonl").read_text().splitlines()[0])["body"].split()[0]
    words.write_text(first + "\n")
    rules = Filtering(
        rules=("gopher_words_max",), thresholds={"gopher_words_max": 40}, words=(str(words),),
        languages=("zh",),
    )  # fmt: skip
    manifest = clean(raw, tmp_path / "run", filter=rules, dedup=Deduplication(False, False))
    holding = sum(
        first in (json.loads(line).get("body") or "").split(" ")
        for path in raw.iterdir()
        for line in path.read_text().splitlines()
        if line.startswith("{")
    )
    assert manifest["removed"]["words"] >= holding > 0
    assert manifest["removed"]["gopher_words_max"] >= 1
    assert manifest["removed"]["language"] > 0
    assert sum(manifest["removed"].values()) + manifest["documents_out"] == 68
    order = list(manifest["removed"])
    assert order.index("words") < order.index("gopher_words_max") < order.index("language")


def test_a_report_shows_what_each_rule_removed(raw, tmp_path):
    manifest = clean(raw, tmp_path / "run", filter=Filtering(personal="remove"))
    text = (tmp_path / "run" / "report.md").read_text()
    for line in ("| personal | -1 |", "| exact_duplicate | -3 |", "## Removed by near_duplicate"):
        assert line in text
    assert MAIL in text  # the sample
    assert "## Documents by language, one in 16" in text
    assert 0 < sum(manifest["languages"].values()) < manifest["documents_in"] / 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<td>near_duplicate</td><td>-3</td>" in page
    assert (tmp_path / "run" / "funnel.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_made_of_what_is_left(raw, tmp_path):
    clean(raw, tmp_path / "run")
    source = data.DataConfig("cleaned", str(tmp_path / "run" / "cleaned"), sequence_length=32)
    prepared = data.prepare(source, vocab_size=300, directory=tmp_path / "data")
    assert prepared.documents["train"] + prepared.documents["validation"] == 60
    assert prepared.documents["validation"] > 0
    file = tmp_path / "run" / "cleaned" / DOCUMENTS
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match="is damaged"):
        open_cleaned(source)
    with pytest.raises(ConfigError, match="holds no cleaned documents"):
        open_cleaned(data.DataConfig("cleaned", str(raw)))


def test_what_cannot_work_is_refused_in_one_line(raw, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(ConfigError, match="2 of 70 records are bad, the first at 2.jsonl"):
        clean(raw, workdir, data=Reading(str(raw), text="body", id="name"))
    with pytest.raises(ConfigError, match="was begun with another data.text"):
        clean(raw, workdir, data=Reading(str(raw), text="name", id="name"))
    with (workdir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another run writes into"):
            clean(raw, workdir)
    assert clean(raw, workdir)["bad_records"] == 2  # with more of them allowed
    with pytest.raises(ConfigError, match="'gofer': did you mean 'gopher'"):
        Filtering(rules=("gofer",))
    with pytest.raises(ConfigError, match="thresholds has 'c4_sentences'"):
        Filtering(thresholds={"c4_sentences": 3})
    with pytest.raises(ConfigError, match="data.path is empty"):
        Reading()
    with pytest.raises(ConfigError, match="workers is 0"):
        config_of(raw, workers=0)
