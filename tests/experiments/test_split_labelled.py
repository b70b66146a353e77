"""Labelled texts are cleaned and split once, for pretraining and testing."""

import json

import pytest

from tests.data.test_labelled_rows import rows_of, write
from tests.experiments.conftest import result, run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    given = rows_of(200)
    return write(
        tmp_path_factory.mktemp("labelled") / "t.csv",
        [
            *given,
            ("<b>" + given[0][0] + "</b>", given[0][1]),
            ("\uff47\uff4f\uff4f\uff44\u3000\uff11", "pos"),
        ],
    )


def test_nothing_is_in_both_parts(table, tmp_path):
    flags = (f"--path={table}", "--text=review", "--label=stars", "--test=0.2")
    outcome = result(run("split_labelled", *flags, f"--output={tmp_path / 'out'}"))
    parts = {
        name: [json.loads(x) for x in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    texts = {name: {line["text"] for line in lines} for name, lines in parts.items()}
    assert not texts["train"] & texts["test"]
    assert len(parts["test"]) == 40
    assert len(parts["train"]) == 161
    assert "good 1" in texts["train"] | texts["test"]
    assert (outcome["duplicates"], outcome["changed_by_cleaning"]) == (1, 2)
    assert sum(outcome["train"].values()) == 161
    done = run("split_labelled", *flags, f"--output={tmp_path / 'out'}", check=False)
    assert done.returncode == 2
    assert "is there already: give a new folder" in done.stderr


def test_a_class_of_one_leaves_nothing_half_written(tmp_path):
    bad = write(tmp_path / "bad.csv", [*rows_of(30), ("only", "rare")])
    flags = (f"--path={bad}", "--text=review", "--label=stars", f"--output={tmp_path / 'out'}")
    done = run("split_labelled", *flags, check=False)
    assert done.returncode == 2
    assert "class 'rare' has 1 members" in done.stderr
    assert not list(tmp_path.glob("out*"))
