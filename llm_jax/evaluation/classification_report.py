"""The report of a trained classifier: Markdown with its pictures beside it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.order import hashed
from llm_jax.evaluation.classification import (
    classification_scores,
    confusion_matrix,
    fit_temperature,
    losses,
    per_class,
    probabilities,
    reliability,
    worst_errors,
)
from llm_jax.evaluation.classification_pictures import (
    draw_confusion,
    draw_curve,
    draw_reliability,
)
from llm_jax.evaluation.section import costs_table, put_section

_SCORES = {
    "f1_micro": "F1, micro", "f1_weighted": "F1, weighted by support",
    "matthews": "Matthews correlation", "average_precision": "average precision, mean over classes",
    "log_loss": "log loss (nats)", "brier": "Brier score", "ece": "expected calibration error",
}  # fmt: skip
_WORST = 10


def write_classification_report(
    directory: str,
    *,
    title: str,
    logits,
    labels,
    names: Sequence[str],
    texts: Sequence,
    costs: Mapping,
    curve: Sequence[Mapping],
) -> None:
    """Writes `report.md`, `confusion.png`, `reliability.png` and `curve.png`, in process 0.

    Of `report.md` it writes a section, see `llm_jax.evaluation.section.put_section`.

    Args:
      directory: an existing one.
      title: of the report, one line.
      logits: float [N, C], of examples that nothing was trained or chosen on.
      labels: int [N], or 0 and 1 [N, C].
      names: of the C classes.
      texts: [N] what was classified: a string each, or several (a pair).
      costs: numbers by name; `trained_parameters` and `total_parameters` are shown as one with
        their share, names that end in `bytes` in MiB, None as "-".
      curve: of `draw_curve`; none: no learning curve.

    Raises:
      ConfigError: as `classification_scores`, or texts of another number.
    """
    if jax.process_index() != 0:
        return
    if len(texts) != len(logits):
        raise ConfigError(f"{len(texts)} texts for {len(logits)} examples: give one for each")
    logits, labels, directory = np.asarray(logits), np.asarray(labels), Path(directory)
    scores, rows = classification_scores(logits, labels, names), per_class(logits, labels, names)
    lines = [*_scores(scores, rows[-1], len(names)), *costs_table(costs)]
    if curve:
        draw_curve(directory / "curve.png", curve)
        lines += ["", "## Learning curve", "", "![learning curve](curve.png)"]
    draw_confusion(directory / "confusion.png", confusion_matrix(logits, labels), names)
    lines += _classes(rows)
    lines += _calibration(directory / "reliability.png", logits, labels)
    lines += _errors(logits, labels, names, texts)
    put_section(directory, title, lines)


def _scores(scores: Mapping, whole: Mapping, classes: int) -> list[str]:
    kind = "classes" if "matthews" in scores else "classes, any number of them right"
    lines = [f"{whole['support']:,} examples of {classes} {kind}; in brackets 95% intervals of the "
             "bootstrap.", "", "| score | value |", "|---|---:|"]  # fmt: skip
    for key, name in (("accuracy", "accuracy"), ("f1", "F1, mean over classes")):
        lines.append(f"| {name} | **{_with_interval(whole, key)}** |")
    there = [(name, scores[key]) for key, name in _SCORES.items() if key in scores]
    return lines + [f"| {name} | {value:.4f} |" for name, value in there]


def _classes(rows: Sequence[Mapping]) -> list[str]:
    lines = [
        "", "## Classes", "", "| # | class | support | precision | recall | F1 |",
        "|---:|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for number, row in enumerate(rows):
        last = number == len(rows) - 1
        named = " | **all** (means)" if last else f"{number} | {_cell(row['name'])}"
        lines.append(
            f"| {named} | {row['support']:,} | {row['precision']:.3f} | {row['recall']:.3f} | "
            f"{_with_interval(row, 'f1', 3)} |"
        )
    lines += ["", "![what was taken for what](confusion.png)", ""]
    return [
        *lines,
        "A name too long for the picture, or with letters its font lacks, has its number there.",
    ]


def _calibration(path: Path, logits: np.ndarray, labels: np.ndarray) -> list[str]:
    """Returns the section on calibration, and draws its picture.

    Each half of the examples is scaled by the temperature of the other, so that what is shown was
    not fitted to itself.
    """
    random = np.random.Generator(np.random.Philox(key=hashed("temperature halves")))
    half = random.permutation(len(labels)) % 2
    scaled, before = logits.astype(np.float64), reliability(logits, labels)
    for side in (0, 1) if len(labels) > 1 else ():
        scaled[half == side] /= fit_temperature(logits[half != side], labels[half != side])
    after = reliability(scaled, labels)
    draw_reliability(path, before, after)
    temperature = fit_temperature(logits, labels)
    means = [losses(each, labels).mean() for each in (logits, scaled)]
    return [
        "", "## Calibration", "", "| | as trained | with temperature |", "|---|---:|---:|",
        f"| expected calibration error | {before['ece']:.4f} | {after['ece']:.4f} |",
        f"| loss (nats an example) | {means[0]:.4f} | {means[1]:.4f} |", "",
        f"Logits divided by {temperature:.3f} have the least log loss here. What the table and the "
        "picture show with temperature is fair: each half of the examples has that of the other.",
        "", "![reliability](reliability.png)",
    ]  # fmt: skip


def _errors(logits, labels, names: Sequence[str], texts: Sequence) -> list[str]:
    wrong = worst_errors(logits, labels, len(labels))
    lines = ["", "## Worst errors", ""]
    shown = wrong[:_WORST]
    lines += [f"{len(wrong):,} of {len(labels):,} are wrong; these {len(shown)} have the largest "
              "loss." if len(wrong) else "No example is wrong."]  # fmt: skip
    chances, loss = probabilities(logits, labels), losses(logits, labels)
    for place, index in enumerate(shown.tolist(), 1):
        if labels.ndim == 1:
            said = int(np.argmax(logits[index]))
            right, answer = names[labels[index]], f"{names[said]} ({chances[index, said]:.1%})"
        else:
            right = _listed(names[c] for c in np.flatnonzero(labels[index] > 0))
            answer = _listed(
                f"{names[c]} ({chances[index, c]:.1%})" for c in np.flatnonzero(logits[index] > 0)
            )
        text = texts[index] if isinstance(texts[index], str) else "\n\n".join(texts[index])
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        lines += [
            "", f"**{place}.** example {index}: label **{_cell(right)}**, predicted "
            f"**{_cell(answer)}**, loss {loss[index]:.2f}", "", fence, text, fence,
        ]  # fmt: skip
    return lines


def _with_interval(row: Mapping, key: str, digits: int = 4) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return f"{row[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _listed(names) -> str:
    return ", ".join(names) or "none"


def _cell(text: str) -> str:
    """Returns text that is safe in a table's cell: one line, and no sign is read as Markdown."""
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(str(text).split()))
