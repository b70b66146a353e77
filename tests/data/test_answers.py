"""Questions and answers as rows of a decoder: what is read, and what counts."""

import json
import random
import re

import numpy as np
import pytest

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig, batches, prepare
from llm_jax.data.objectives import OBJECTIVES
from tests.data.test_pretrained_tokenizer_rows import bert_folder

DRAW = random.Random(0)


def words(count):
    return " ".join("".join(DRAW.choices("abcdefghij", k=3)) for _ in range(count))


PAIRS = [(f"{n} {words(1 + n % 6)}", words(1 + n % 3)) for n in range(200)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in PAIRS))
    return path


def opened(path, directory, tokenizer=TokenizerConfig(), **changes):
    objective = OBJECTIVES["answers"](**{"target_length": 12} | changes)
    config = DataConfig(source="pairs", path=str(path), sequence_length=24, tokenizer=tokenizer)
    prepare(config, vocab_size=320, directory=directory, objective=objective)
    return data.open_split(directory, "train", objective), data.load_tokenizer(directory)


def test_the_answer_alone_counts(path, tmp_path):
    rows, tokenizer = opened(path, tmp_path / "data")
    asked = dict(PAIRS)
    batch = rows.take([0, 5, -1])
    assert batch["weights"][2].sum() == 0
    for row in range(2):
        counted = batch["weights"][row] > 0
        first = int(counted.argmax())
        question = tokenizer.decode(batch["tokens"][row][1 : first + 1].tolist())
        answer = batch["targets"][row][counted].tolist()
        assert answer[-1] == tokenizer.eos_id
        assert question.endswith("\n")
        assert asked[question[:-1]].startswith(tokenizer.decode(answer[:-1]))
        assert batch["tokens"][row][0] == tokenizer.bos_id
        last = first + len(answer)
        np.testing.assert_array_equal(
            batch["targets"][row][: last - 1], batch["tokens"][row][1:last]
        )


def test_rows_are_as_long_as_their_batch_needs(path, tmp_path):
    rows, _ = opened(path, tmp_path / "data", separator=" = ")
    stream = batches(rows, seed=0, batch_size=8, threads=0)
    shapes = {next(stream)["tokens"].shape for _ in range(len(rows) // 8)}
    assert 1 < len(shapes) <= 4
    assert all(length <= 24 + 12 - 1 for _, length in shapes)


def test_a_template_puts_the_question_into_a_user_s_turn(path, tmp_path):
    folder, _ = bert_folder(tmp_path / "tokenizer")
    settings = json.loads((folder / "tokenizer_config.json").read_text()) if (
        folder / "tokenizer_config.json"
    ).exists() else {}  # fmt: skip
    settings["chat_template"] = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} . {% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    given = TokenizerConfig(path=str(folder))
    rows, tokenizer = opened(path, tmp_path / "data", given, chat=True, target_length=8)
    batch = rows.take([3])
    first = int((batch["weights"][0] > 0).argmax())
    wanted = {
        tuple(tokenizer.encode(f"user : {source} . ", add_special_tokens=False)[-24:])
        for source, _ in PAIRS
    }
    assert tuple(batch["tokens"][0][: first + 1].tolist()) in wanted


def test_no_template_is_told(path, tmp_path):
    folder, _ = bert_folder(tmp_path / "tokenizer")
    given = TokenizerConfig(path=str(folder))
    with pytest.raises(ConfigError, match=re.escape("this tokenizer has no chat template")):
        opened(path, tmp_path / "data", given, chat=True)
