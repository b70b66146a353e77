"""Folds of labelled texts as prepared data: each text is the test of one fold, by class alike."""

import re

import numpy as np
import pytest

from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig
from llm_jax.data.objectives import OBJECTIVES
from tests.data.test_labelled_rows import prepared, rows_of, write

FOLDS = 4


def texts_of(tmp_path, rows, **changes):
    """Returns the texts of each split of each fold, and the manifests."""
    found, manifests = [], []
    for fold in range(FOLDS):
        manifest, parts = prepared(tmp_path, rows, f"data{fold}", folds=FOLDS, fold=fold, **changes)
        found.append({name: part.texts() for name, part in parts.items()})
        manifests.append(manifest)
    return found, manifests


def test_each_text_is_held_out_once_and_each_fold_has_the_classes_shares(tmp_path):
    rows = rows_of(90, classes=("a", "b", "b", "b", "c"))
    given = dict(rows)
    # Twice there, and under two labels: gone before there are folds.
    table = write(tmp_path / "table.csv", [*rows, rows[0], (rows[1][0], "a"), (rows[1][0], "c")])
    found, manifests = texts_of(tmp_path, table)
    del given[rows[1][0]]
    tested = [text for fold in found for text in fold["test"]]
    assert sorted(tested) == sorted(given)
    labels = list(given.values())
    for fold in found:
        whole = [text for part in fold.values() for text in part]
        assert sorted(whole) == sorted(given)
        assert len(fold["validation"]) == pytest.approx(len(fold["train"]) / 9, abs=2)
        # As scikit-learn's StratifiedKFold promises: within one of the class's share.
        for name in "abc":
            members = sum(given[text] == name for text in fold["test"])
            assert abs(members - labels.count(name) / FOLDS) < 1
    assert {len(fold["test"]) for fold in found} <= {len(given) // FOLDS, -(-len(given) // FOLDS)}
    assert manifests[2].hold_out == "fold 2 of 4, and a tenth of the others"
    # What lies there is used again for its own fold alone.
    assert prepared(tmp_path, table, "data1", folds=FOLDS, fold=1)[0] == data.load_manifest(
        tmp_path / "data1"
    )
    with pytest.raises(ConfigError, match="fold"):
        prepared(tmp_path, table, "data1", folds=FOLDS, fold=2)


def test_folds_are_those_of_scikit_learn_s_splitter(tmp_path):
    model_selection = pytest.importorskip("sklearn.model_selection")
    rows = rows_of(60)
    found, _ = texts_of(tmp_path, write(tmp_path / "table.csv", rows))
    labels = [label for _, label in rows]
    splitter = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    sizes = [np.bincount(np.unique(np.array(labels)[held], return_inverse=True)[1]).tolist()
             for _, held in splitter.split(labels, labels)]  # fmt: skip
    given = dict(rows)
    own = [[sum(given[t] == name for t in fold["test"]) for name in ("neg", "pos")]
           for fold in found]  # fmt: skip
    assert sorted(own) == sorted(sizes)


def test_a_test_set_is_in_no_fold(tmp_path):
    rows = rows_of(60)
    outside = write(tmp_path / "outside.csv", [*rows[:7], ("never seen", "pos")])
    table = write(tmp_path / "table.csv", rows)
    found, manifests = texts_of(tmp_path, table, test_path=str(outside))
    tested = [text for fold in found for text in fold["test"]]
    assert sorted(tested) == sorted(text for text, _ in rows[7:])
    assert manifests[0].labels["in_test_too"] == 7
    assert "never seen" not in [t for part in found[0].values() for t in part]


def test_folds_of_tags_and_numbers(tmp_path):
    rows = [(text, str(number / 7)) for number, (text, _) in enumerate(rows_of(40))]
    for fold in range(FOLDS):
        _, parts = prepared(
            tmp_path, rows, f"numbers{fold}", target="number", folds=FOLDS, fold=fold
        )
        assert len(parts["test"]) == 10
    lines = "".join(f"w{n} O\nb{n} B-x\n\n" for n in range(30))
    (tmp_path / "tags.conll").write_text(lines)
    config = DataConfig(
        source="tagged", path=str(tmp_path / "tags.conll"), folds=3, fold=1, sequence_length=16
    )
    objective = OBJECTIVES["token_classification"]()
    manifest = data.prepare(
        config, vocab_size=300, directory=tmp_path / "tags", objective=objective
    )
    assert manifest.documents == {"test": 10, "train": 18, "validation": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": 1}, "data.folds is 1 with data.source 'labelled': give 2 or more"),
        ({"folds": 3, "fold": 3}, "data.fold is 3 of 3 data.folds"),
        ({"fold": 1}, "data.fold is 1 of 0 data.folds"),
        ({"folds": -2}, "data.folds is -2"),
        ({"source": "text", "folds": 2}, "data.folds is 2 with data.source 'text'"),
    ],
)
def test_impossible_folds_are_refused(changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        DataConfig(**{"source": "labelled", "path": "x"} | changes)
