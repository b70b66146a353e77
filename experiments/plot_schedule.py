r"""Draws the learning-rate schedule of a configuration, or several beside each other, as a PNG.

  python -m experiments.plot_schedule --config=configs/gpt_quickstart.py
  python -m experiments.plot_schedule --config=configs/gpt_quickstart.py --schedule=cosine,wsd
  python -m experiments.plot_schedule --config=configs/gpt_quickstart.py --schedule=all \
      --config.optim.final_fraction=0 --output=schedules.png

Each is drawn as the run would follow it: the same steps, warm-up and peak. The last line of stdout
is one JSON object: the file, and each schedule's rate at the first and the last update, its largest
rate and the step where that is first reached.
"""

import dataclasses
import math

import jax
import matplotlib
import numpy as np
from absl import flags

from experiments import entry
from llm_jax import optim
from llm_jax.configuration import ConfigError, nearest
from llm_jax.training.run import parse_run

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CONFIG = entry.define_config()
SCHEDULE = flags.DEFINE_string(
    "schedule", "", "Schedules to draw, with commas between, or 'all'; none: the configuration's."
)
OUTPUT = flags.DEFINE_string("output", "schedule.png", "The picture to write (.png).")

INK, LINE = "#22303c", "#2563a8"


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    jax.config.update("jax_platforms", "cpu")
    run = parse_run(entry.required(CONFIG))
    rates = {}
    for name in _names(SCHEDULE.value, run.optim.schedule):
        config = dataclasses.replace(run.optim, schedule=name)
        rates[name] = np.asarray(optim.schedule(config, run.steps)(np.arange(run.steps)))
    _draw(rates, run.optim.warmup_steps, OUTPUT.value)
    return {
        "output": OUTPUT.value,
        "steps": run.steps,
        "schedules": {name: _summary(values) for name, values in rates.items()},
    }


def _names(given: str, configured: str) -> list[str]:
    names = {"": [configured], "all": list(optim.SCHEDULES)}.get(given, given.split(","))
    for name in names:
        if name not in optim.SCHEDULES:
            raise ConfigError(
                f"--schedule is {given!r}, {name!r} is none: {nearest(name, optim.SCHEDULES)}"
            )
    return names


def _summary(values: np.ndarray) -> dict[str, float]:
    top = int(values.argmax())
    numbers = {"first": values[0], "last": values[-1], "largest": values[top]}
    return {key: float(f"{rate:.7g}") for key, rate in numbers.items()} | {"largest_at": top}


def _draw(rates: dict[str, np.ndarray], warmup: int, output: str) -> None:
    columns = {1: 1, 2: 2, 4: 2, 10: 5}.get(len(rates), 3)
    rows = math.ceil(len(rates) / columns)
    size = (7.2, 3.8) if len(rates) == 1 else (2.7 * columns, 2.1 * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    figure.set_layout_engine("constrained", h_pad=0.09, w_pad=0.06)
    top = max(values.max() for values in rates.values())
    for panel in axes.flat[len(rates) :]:
        panel.set_visible(False)
    for panel, (name, values) in zip(axes.flat, rates.items(), strict=False):
        steps = len(values)
        panel.axvspan(0, warmup, color=INK, alpha=0.08, linewidth=0)
        panel.fill_between(range(steps), values, color=LINE, alpha=0.08, linewidth=0)
        panel.plot(values, color=LINE, linewidth=1.8)
        panel.set_title(name, loc="left", fontsize=11, color=INK, fontweight="bold")
        panel.set(xlim=(0, steps), ylim=(0, 1.06 * top or 1))
        panel.xaxis.set_major_locator(plt.MaxNLocator(5 if len(rates) == 1 else 2, integer=True))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.25)
        panel.tick_params(colors=INK, labelsize=9)
    figure.supxlabel("step (warm-up shaded)", fontsize=10, color=INK)
    figure.supylabel("learning rate", fontsize=10, color=INK)
    try:
        figure.savefig(output, dpi=110, format="png")
    except OSError as error:
        raise ConfigError(f"--output={output}: {error.strerror}; give a path to write") from None


if __name__ == "__main__":
    entry.launch(main)
