import re

import numpy as np
import pytest
from PIL import Image

from llm_jax.configuration import ConfigError
from llm_jax.evaluation import classification_pictures
from llm_jax.evaluation.classification import classification_scores, per_class, reliability
from llm_jax.evaluation.classification_pictures import draw_confusion, draw_curve
from llm_jax.evaluation.classification_report import write_classification_report

NAMES = ["news|world", "体育", "a long name that no axis has room for"]
CURVE = [
    {"step": 1, "train_loss": 1.0, "validation_loss": None},
    {"step": 2, "train_loss": 0.5, "validation_loss": 0.75, "accuracy": 0.9},
]
COSTS = {
    "trained_parameters": 2500,
    "total_parameters": 1_000_000,
    "peak_bytes": 3 * 2**20,
    "seconds": 12.345,
    "epochs": None,
}


def examples(count=90, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    logits = 6 * rng.normal(size=(count, 3)) + 6 * np.eye(3)[labels]
    return logits, labels


def write(directory, logits, labels, **changed):
    given = {
        "title": "Report",
        "names": NAMES,
        "texts": [f"text {i}" for i in range(len(labels))],
        "costs": COSTS,
        "curve": CURVE,
    }
    write_classification_report(directory, logits=logits, labels=labels, **given | changed)
    return (directory / "report.md").read_text(encoding="utf-8")


def test_the_report_says_what_was_measured(tmp_path):
    logits, labels = examples()
    text = write(tmp_path, logits, labels)
    scores, rows = classification_scores(logits, labels, NAMES), per_class(logits, labels, NAMES)
    accuracy = "{accuracy:.4f} [{accuracy_low:.4f}, {accuracy_high:.4f}]".format(**rows[-1])
    assert f"| accuracy | **{accuracy}** |" in text
    assert f"| Matthews correlation | {scores['matthews']:.4f} |" in text
    row = "{support} | {precision:.3f} | {recall:.3f} | {f1:.3f} [{f1_low:.3f}, {f1_high:.3f}] |"
    assert f"| 1 | 体育 | {row.format(**rows[1])}\n" in text
    assert r"| 0 | news\|world |" in text
    assert "| trained parameters | 2,500 of 1,000,000 (0.250%) |" in text
    assert "| peak memory | 3.0 MiB |" in text
    assert "| epochs | - |" in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert sorted(pictures) == ["confusion.png", "curve.png", "reliability.png"]
    for picture in pictures:
        width, height = Image.open(tmp_path / picture).size
        assert min(width, height) > 300


def test_calibration_is_judged_on_other_examples_than_it_was_fitted_to(tmp_path):
    # Of two examples that are told apart with ease, one is mislabelled. Each is scaled by what fits
    # the other: the right one's wants T = 100, the wrong one's T = 0.01, so that the loss grows.
    text = write(tmp_path, np.eye(3)[[0, 1]] * 5, np.array([0, 2]))
    before, after = re.search(r"\| loss .* \| (\S+) \| (\S+) \|", text).groups()
    assert float(after) > 10 * float(before)
    logits, labels = examples(600)
    text = write(tmp_path, logits, labels)
    found = re.search(r"calibration error \| (\S+) \| (\S+) \|", text.split("## Calibration")[1])
    before, after = map(float, found.groups())
    assert before == pytest.approx(reliability(logits, labels)["ece"], abs=5e-5)
    assert after < before / 3


def test_the_worst_errors_have_their_whole_texts(tmp_path):
    logits = np.array([[9.0, 0, 0], [0, 9, 0], [0, 5, 0], [0, 0, 3]])
    texts = ["one", "```\ncode\n```\n" + 3000 * "long ", ("first", "second"), "fine"]
    text = write(tmp_path, logits, np.array([0, 0, 0, 2]), texts=texts)
    assert "2 of 4 are wrong" in text
    first, second = text.split("## Worst errors")[1].split("**2.**")
    assert first.rstrip().endswith(f"\n````\n{texts[1]}\n````")
    assert r"**1.** example 1: label **news\|world**, predicted **体育 (100.0%)**, loss 9" in first
    assert second.rstrip().endswith("\n```\nfirst\n\nsecond\n```")
    assert "No example is wrong." in write(tmp_path, logits, np.array([0, 1, 1, 2]))


def test_many_labels_are_reported(tmp_path):
    logits = np.array([[3.0, -3, 2], [-1, -1, -1], [2, 0.5, -2]])
    text = write(tmp_path, logits, np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]]), curve=[])
    assert "average precision" in text
    assert "curve.png" not in text
    assert "1 of 3 are wrong" not in text
    assert "2 of 3 are wrong" in text
    assert r"label **体育**, predicted **news\|world (88.1%), 体育 (62.2%)**" in text


def test_what_the_file_said_before_stays(tmp_path):
    logits, labels = examples()
    alone = write(tmp_path, logits, labels)
    assert write(tmp_path, logits, labels) == alone
    (tmp_path / "report.md").write_text("# Training report\n\nten steps\n")
    both = write(tmp_path, logits, labels)
    assert both == "# Training report\n\nten steps\n\n" + alone
    assert write(tmp_path, logits, labels) == both


def test_texts_of_another_number_are_refused(tmp_path):
    logits, labels = examples()
    with pytest.raises(ConfigError, match="1 texts for 90 examples"):
        write(tmp_path, logits, labels, texts=["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")  # of a letter that the font lacks
@pytest.mark.parametrize("classes", [2, 20, 61])
def test_axes_name_the_classes(classes, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(classification_pictures.plt, "close", figures.append)
    names = [*NAMES, "$a$ b", *(f"class {c}" for c in range(classes))][1 : classes + 1]
    matrix = np.arange(classes**2).reshape(classes, classes)
    draw_confusion(tmp_path / "confusion.png", matrix, names)
    axes = figures[0].axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [label.get_text() for label in axes.get_xticklabels()]
    assert shown[0] == "#0"
    cells = [text.get_text() for text in axes.texts]
    assert cells == ([] if classes == 61 else [f"{n:,}" for n in range(1, classes**2)])
    if classes == 61:
        assert shown[2:4] == ["class 1", "class 3"]
    else:
        assert shown[1] == "#1 a long name that no…"
    if classes == 20:
        assert shown[2:4] == [r"\$a\$ b", "class 0"]


def test_bars_say_what_was_found_missed_and_wrongly_predicted(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(classification_pictures.plt, "close", figures.append)
    matrix = np.array([[[10, 1], [2, 7]], [[5, 0], [4, 11]]])  # of each class [label][prediction]
    draw_confusion(tmp_path / "confusion.png", matrix, ["a", "b"])
    axes = figures[0].axes[0]
    drawn = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert drawn == {"found": [7, 11], "missed": [2, 4], "wrongly predicted": [1, 0]}
    assert [bar.get_x() for bar in axes.containers[2]] == [9, 15]


def test_the_curve_leaves_out_what_is_missing(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(classification_pictures.plt, "close", figures.append)
    draw_curve(tmp_path / "curve.png", CURVE)
    left, right = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert drawn == {"train": [[1, 1.0], [2, 0.5]], "validation": [[2, 0.75]]}
    assert right.lines[0].get_xydata().tolist() == [[2, 0.9]]
    assert right.get_ylabel() == "accuracy"
