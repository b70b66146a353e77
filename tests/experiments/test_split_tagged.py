"""Tagged words become tagged characters, split once; and a CRF learns them, as a bar to beat."""

import json
import random

import pytest

from llm_jax.data import DataConfig, TokenizerConfig, prepare
from llm_jax.data.objectives import OBJECTIVES
from tests.experiments.conftest import result, run

SURNAMES, GIVEN, PLACES = "江李王", ("泽民", "鹏", "小平"), ("北京", "上海市", "香港")


def lines(count=120, seed=0):
    draw = random.Random(seed)
    for number in range(count):
        name = f"{draw.choice(SURNAMES)}/nr  {draw.choice(GIVEN)}/nr"
        yield f"{name}  在/p  {draw.choice(PLACES)}/ns  {draw.choice(PLACES)}/ns  说/v  {number}/m"


def split(tmp_path, text, *more, check=True):
    path = tmp_path / "tagged.txt"
    path.write_text(text, encoding="utf-8")
    flags = (f"--path={path}", f"--output={tmp_path / 'out'}", *more)
    return run("split_tagged", *flags, check=check)


def read(tmp_path, name):
    return [json.loads(line) for line in (tmp_path / "out" / name).read_text("utf-8").splitlines()]


def test_characters_have_the_tags_of_their_words(tmp_path):
    given = ["江/nr  泽民/nr  在/p  北京/ns  香港/ns  说/v  A/B/nt", "好/a  。/w  李/nr"] * 4
    text = "\n".join([*given, "", "今天/t", "李/nr  鹏/nr  和/c  王/nr", "今天/t"])
    outcome = result(split(tmp_path, text, "--test=0.1818", "--entities=nr,ns"))
    train, test = read(tmp_path, "train.jsonl"), read(tmp_path, "test.jsonl")
    assert "".join(train[0]["tokens"]) == "江泽民在北京香港说A/B"
    assert " ".join(train[0]["tags"]) == "B-nr I-nr I-nr O B-ns I-ns B-ns I-ns O O O O"
    assert test[0] == {"tokens": list("李鹏和王"), "tags": ["B-nr", "I-nr", "O", "B-nr"]}
    assert (outcome["train"], outcome["test"], outcome["in_test_too"]) == (8, 2, 1)
    assert outcome["train_entities"] == {"nr": 8, "ns": 8}
    assert outcome["test_entities"] == {"nr": 2}
    raw = (tmp_path / "out" / "train.txt").read_text("utf-8").splitlines()
    assert raw == ["".join(one["tokens"]) for one in train]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("江/nr 泽民", "'泽民' has no tag: give words as word/tag"),
        ("[中央/n 电台/n]nt", "'电台/n]nt' ends a compound in brackets"),
        ("江/nr", "has 1 sentences: too few to split"),
    ],
)
def test_what_cannot_be_split_is_one_line(tmp_path, text, said):
    done = split(tmp_path, text, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_a_crf_learns_what_its_features_tell(tmp_path):
    pytest.importorskip("pycrfsuite")
    pytest.importorskip("seqeval")
    from tests.experiments.crf_baseline import main

    split(tmp_path, "\n".join(lines()))
    parts = {f"{key}path": str(tmp_path / "out" / f"{name}.jsonl") for key, name in
             (("", "train"), ("test_", "test"))}  # fmt: skip
    config = DataConfig(
        source="tagged", text="tokens", label="tags", sequence_length=32,
        tokenizer=TokenizerConfig(max_piece_length=1), **parts,
    )  # fmt: skip
    objective = OBJECTIVES["token_classification"](units="characters")
    prepare(config, vocab_size=320, directory=tmp_path / "data", objective=objective)
    assert main(tmp_path / "data")["f1"] == 1.0
