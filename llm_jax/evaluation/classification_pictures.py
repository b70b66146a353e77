"""Pictures of a classifier: confusion matrix, reliability diagram, learning curve (PNG)."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import font_manager

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, TRAIN, HELD_OUT, GOOD = "#22303c", "#9db8d9", "#c0392b", "#2f5d8a"
_MISSED, _WRONG = "#9db8d9", "#e9c46a"
_NAME_LENGTH = 24
# More classes than this have no figures in their cells, and not each its name at the axis.
_MOST = 40


def draw_confusion(path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draws a confusion matrix, coloured by the share of each class's examples.

    Args:
      path: of the PNG.
      matrix: int [C, C], rows by label; or [C, 2, 2] as of `confusion_matrix`, drawn as bars.
      names: of the C classes.
    """
    if matrix.ndim == 3:
        _draw_bars(path, matrix, names)
        return
    classes = len(names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cell = np.interp(classes, [2, 5, 10, 20, _MOST, 100], [0.9, 0.7, 0.52, 0.4, 0.27, 0.1])
    side = min(max(cell * classes, 2.2), 12.0)
    figure, axes = plt.subplots(figsize=(side + 2.9, side + 1.9), layout="constrained")
    # The power makes rare errors visible.
    norm = matplotlib.colors.PowerNorm(0.6, vmin=0, vmax=1)
    picture = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    if classes <= _MOST:
        inches, widest = side / classes, len(f"{matrix.max():,}")
        size = min(10, 72 * 0.9 * inches / (0.64 * max(widest, 2)))
        for row, column in np.argwhere(matrix):
            color = "white" if shares[row, column] > 0.35 else INK
            number = f"{matrix[row, column]:,}"
            axes.text(column, row, number, ha="center", va="center", color=color, fontsize=size)
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
    shown = np.arange(0, classes, math.ceil(classes / _MOST))
    labels = [_drawable(c, names[c]) for c in shown]
    steep = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    crowded = 0.1 * max(map(len, labels)) > side / classes
    axes.set_xticks(shown, labels, **(steep if crowded else {}))
    axes.set_yticks(shown, labels)
    axes.tick_params(which="both", length=0, labelsize=9 if classes <= 25 else 7.5, labelcolor=INK)
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("label", color=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=22, pad=0.02)
    bar.set_label("share of the label's examples", color=INK, fontsize=9)
    bar.ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=INK)
    bar.outline.set_visible(False)
    _save(figure, path)


def _draw_bars(path, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draws of how many examples each class was found, missed, or wrongly predicted."""
    classes = len(names)
    height = min(max(0.32 * classes, 1.2), 40.0) + 1.0
    figure, axes = plt.subplots(figsize=(7.5, height), layout="constrained")
    left = np.zeros(classes)
    parts = {"found": (1, 1, GOOD), "missed": (1, 0, _MISSED), "wrongly predicted": (0, 1, _WRONG)}
    for name, (label, prediction, color) in parts.items():
        numbers = matrix[:, label, prediction]
        bars = axes.barh(range(classes), numbers, left=left, color=color, label=name, height=0.72)
        wide = numbers >= 0.05 * matrix[:, [1, 1, 0], [1, 0, 1]].sum(axis=1).max()
        axes.bar_label(
            bars, [f"{n:,}" if w else "" for n, w in zip(numbers, wide)], label_type="center",
            fontsize=8, color="white" if color == GOOD else INK,
        )  # fmt: skip
        left += numbers
    axes.set_yticks(range(classes), [_drawable(c, names[c]) for c in range(classes)])
    axes.set_ylim(classes - 0.4, -0.6)
    axes.set_xlabel("examples", color=INK)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    _save(figure, path)


def draw_reliability(path, before: Mapping, after: Mapping) -> None:
    """Draws how often predictions of each confidence are right, and how many those are.

    Args:
      path: of the PNG.
      before, after: of `reliability`, without and with a temperature; the same bins.
    """
    bins = len(before["count"])
    centres = (np.arange(bins) + 0.5) / bins
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(5.2, 5.6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    top.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
    heights = np.nan_to_num(before["accuracy"])
    top.bar(
        centres,
        heights,
        width=0.92 / bins,
        color=TRAIN,
        label=f"as trained: ECE {before['ece']:.3f}",
    )
    full = after["count"] > 0
    top.plot(
        after["confidence"][full], after["accuracy"][full], color=HELD_OUT, marker="o",
        markersize=4, linewidth=1.4, label=f"with temperature: ECE {after['ece']:.3f}",
    )  # fmt: skip
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    top.set_ylabel("accuracy", color=INK)
    top.legend(frameon=False, fontsize=9, loc="upper left")
    bottom.bar(centres, before["count"], width=0.92 / bins, color=TRAIN)
    bottom.stairs(after["count"], np.arange(bins + 1) / bins, color=HELD_OUT, linewidth=1.3)
    bottom.set_xlabel("confidence", color=INK)
    bottom.set_ylabel("predictions", color=INK)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9, labelcolor=INK)
    _save(figure, path)


def draw_curve(path, curve: Sequence[Mapping]) -> None:
    """Draws the losses, and beside them what else the curve holds, over steps.

    Args:
      path: of the PNG.
      curve: rows with `step` and any of `train_loss`, `validation_loss` and metrics; a value that
        is missing or None is left out.
    """
    colors = {"train_loss": TRAIN, "validation_loss": HELD_OUT}
    series = {}
    for row in curve:
        for name, value in row.items():
            if name != "step" and value is not None:
                series.setdefault(name, []).append((row["step"], value))
    metrics = [name for name in series if name not in colors]
    panels = [[name for name in series if name in colors], metrics]
    panels = [(names, y) for names, y in zip(panels, ("loss (nats)", "metric")) if names]
    width = 7.5 if len(panels) < 2 else 9.5
    figure, all_axes = plt.subplots(
        1, max(len(panels), 1), figsize=(width, 3.9), squeeze=False, layout="constrained"
    )
    shades = [GOOD, "#4c956c", "#b8a1d9", "#e9c46a"]
    for axes, (names, y) in zip(all_axes[0], panels):
        for number, name in enumerate(names):
            color = colors.get(name, shades[number % len(shades)])
            points = series[name]
            dots = "o" if len(points) <= 40 else None
            label = name.removesuffix("_loss").replace("_", " ")
            axes.plot(
                *zip(*points), color=color, marker=dots, markersize=4, linewidth=1.4, label=label
            )
            axes.annotate(
                f"{points[-1][1]:.3f}", points[-1], xytext=(6, -3), textcoords="offset points",
                color=color, fontsize=9, annotation_clip=False,
            )  # fmt: skip
        alone = len(names) == 1
        axes.set_ylabel(names[0].replace("_", " ") if alone else y, color=INK)
        axes.set_xlabel("step", color=INK)
        axes.xaxis.set_major_locator(plt.MaxNLocator(6, integer=True))
        axes.margins(x=0.08)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=9, labelcolor=INK)
        if not alone:
            axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def _drawable(number: int, name: str) -> str:
    """Returns the name, cut with its number if long; `#number` where the font lacks a letter."""
    name = " ".join(str(name).split())
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    if not name or not all(font.get_char_index(ord(letter)) for letter in name):
        return f"#{number}"
    if len(name) > _NAME_LENGTH:  # cut, two may look the same: the number tells them apart
        name = f"#{number} {name}"[: _NAME_LENGTH - 1].rstrip() + "…"
    return name.replace("$", r"\$")  # else two of them begin and end a formula


def _save(figure, path) -> None:
    figure.savefig(path, dpi=120, format="png", bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
