r"""Compares finished runs: a Markdown table of where they differ and what came of it.

  python -m experiments.compare runs/*
  python -m experiments.compare runs/lora-* runs/full --metric=f1

Each run is a work directory with `config.json` and `result.json`. The table has the keys of the
configuration in which the runs differ and the main figures of their results, the best run first.
Runs that differ in nothing but `seed` are one row, mean ± standard deviation (of a sample, n - 1).

The table goes to stdout; the last line there is one JSON object: the metric, the keys that differ,
and the rows, each with its runs, the values of those keys and, for each figure, mean and spread.
"""

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from absl import flags

from experiments import entry
from llm_jax.configuration import ConfigError, flatten, nearest

METRIC = flags.DEFINE_string(
    "metric", "", "Figure of the results to sort by; none: the first of accuracy, f1, ... there is."
)

_METRICS = ("accuracy", "f1", "matthews", "average_precision", "pearson", "spearman", "r2", "mse",
            "mae", "validation_loss", "loss", "perplexity")  # fmt: skip
_COSTS = ("trained_parameters", "total_parameters", "training_seconds", "seconds", "peak_bytes")
_LESS_IS_BETTER = ("mse", "mae", "ece", "brier", "loss", "perplexity", "seconds", "bytes",
                   "parameters")  # fmt: skip


def main(workdirs: Sequence[str]) -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    jax.config.update("jax_platforms", "cpu")
    if not workdirs:
        raise ConfigError("no runs: name their work directories, as in experiments.compare runs/*")
    runs = {}
    for workdir in map(os.path.normpath, workdirs):
        if workdir in runs:
            raise ConfigError(f"{workdir} is given twice: name each run once")
        runs[workdir] = (_read(workdir, "config.json"), _read(workdir, "result.json"))
        if not runs[workdir][1].get("finished", True):
            raise ConfigError(f"{workdir} has not finished: run its command again, or leave it out")
    metric = _metric({workdir: result for workdir, (_, result) in runs.items()}, METRIC.value)
    configs = [config for config, _ in runs.values()]
    keys = sorted({key for config in configs for key in config if _differs(key, configs)})
    rows = [_row(group, runs, keys) for group in _groups(runs)]
    sign = 1 if metric.endswith(_LESS_IS_BETTER) else -1
    rows.sort(key=lambda row: _rank(row["figures"][metric]["mean"], sign))
    known = {name for row in rows for name in row["figures"]}
    figures = [name for name in dict.fromkeys((metric, *_METRICS, *_COSTS)) if name in known]
    print("\n".join(_table(rows, keys, figures)))
    return {"metric": metric, "differing": keys, "rows": rows}


def _read(workdir: str, name: str) -> dict:
    path = Path(workdir, name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{workdir} has no {name} to read ({error.strerror}): name work directories of "
            "finished runs"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}): leave the run out") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no JSON object: leave the run out")
    return {key: value for key, value in flatten(found).items() if value not in (None, {})}


def _metric(results: Mapping[str, Mapping], given: str) -> str:
    """Returns the figure to sort by, a number in every run."""
    lists = [[name for name, value in r.items() if _is_number(value)] for r in results.values()]
    for name in (given,) if given else _METRICS:
        if all(name in names for names in lists):
            return name
    shared = [name for name in lists[0] if all(name in names for names in lists)]
    if not given:
        raise ConfigError(f"the runs share none of {', '.join(_METRICS)}: give --metric, one of "
                          f"{', '.join(shared) or 'none: they share no number'}")  # fmt: skip
    without = next(run for run, names in zip(results, lists) if given not in names)
    raise ConfigError(f"--metric={given} is no number in {without}/result.json: "
                      f"{nearest(given, shared)}")  # fmt: skip


def _groups(runs: Mapping[str, tuple]) -> list[list[str]]:
    """Returns the runs, those together that differ in nothing but the seed."""
    groups = {}
    for workdir, (config, _) in runs.items():
        rest = {key: value for key, value in config.items() if key != "seed"}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(workdir)
    return list(groups.values())


def _differs(key: str, configs: Sequence[Mapping]) -> bool:
    return len({json.dumps(config.get(key)) for config in configs}) > 1


def _row(group: Sequence[str], runs: Mapping[str, tuple], keys: Sequence[str]) -> dict:
    configs, results = zip(*(runs[workdir] for workdir in group))
    values = {key: configs[0].get(key) for key in keys}
    if "seed" in values and len(group) > 1:
        values["seed"] = [config.get("seed") for config in configs]
    figures = {}
    for name in results[0]:
        numbers = [result.get(name) for result in results]
        if all(map(_is_number, numbers)):
            spread = statistics.stdev(map(float, numbers)) if len(numbers) > 1 else None
            mean = numbers[0] if len(numbers) == 1 else statistics.fmean(numbers)
            finite = math.isfinite(mean)  # JSON has no other numbers
            figures[name] = {"mean": mean if finite else None, "spread": spread if finite else None}
    return {"runs": list(group), "config": values, "figures": figures}


def _table(rows: Sequence[Mapping], keys: Sequence[str], figures: Sequence[str]) -> list[str]:
    titles = [name.replace("bytes", "MiB") for name in figures]
    lines = [f"| {' | '.join(['run', *keys, *titles])} |"]
    lines.append(f"|---|{'---|' * len(keys)}{'---:|' * len(figures)}")
    for row in rows:
        cells = [_names(row["runs"]), *(_value(row["config"][key]) for key in keys)]
        cells += [_figure(name, row["figures"].get(name)) for name in figures]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def _names(workdirs: Sequence[str]) -> str:
    if len(workdirs) < 4:
        return ", ".join(workdirs)
    return f"{workdirs[0]} … {workdirs[-1]} ({len(workdirs)} runs)"


def _value(value) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return "-" if value is None else str(value)


def _figure(name: str, figure: Mapping | None) -> str:
    if figure is None:
        return "-"
    if figure["mean"] is None:
        return "not finite"
    scale = 2**20 if name.endswith("bytes") else 1
    digits = 0 if name.endswith("parameters") else 1 if name.endswith(("seconds", "bytes")) else 4
    mean, spread = (f"{(part or 0) / scale:,.{digits}f}" for part in figure.values())
    plain = figure["spread"] is None or (digits == 0 and not figure["spread"])
    return mean if plain else f"{mean} ± {spread}"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rank(mean: float | None, sign: int) -> tuple[bool, float]:
    """Returns what to sort by: what is not finite comes last."""
    return mean is None, sign * (mean or 0)


if __name__ == "__main__":
    entry.launch(main, positional=True)
