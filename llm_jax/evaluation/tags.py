"""What a model says of the words of a sentence: entities, and what they are worth.

Entities are read from tags as `seqeval` (Nakayama 2018) reads them by default, which is what the
script of CoNLL-2000 does: an `I-x` that nothing precedes begins one.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data import Rows
from llm_jax.data.labelled_rows import TextRows
from llm_jax.data.order import hashed
from llm_jax.data.tagged import UNIT, encoded_units
from llm_jax.evaluation.labels import read_rows
from llm_jax.evaluation.section import costs_table, put_section
from llm_jax.models import Model

_WORST, _RESAMPLES = 10, 1000


def seqeval():
    """Returns the package's module `metrics`; `ConfigError` where it is not installed."""
    try:
        from seqeval import metrics
    except ImportError as error:
        raise ConfigError("tags need seqeval: pip install 'llm_jax[metrics]'") from error
    return metrics


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns (type, begin, end) of each entity of a sentence; `end` is behind its last unit."""
    found = seqeval().sequence_labeling.get_entities(list(tags))
    return [(kind, first, last + 1) for kind, first, last in found]


def outputs(model: Model, params, rows: Rows, *, batch_size: int) -> list[np.ndarray]:
    """Returns what the head gives for the units of each of `rows`: float32 [units, tags].

    Arguments are those of `llm_jax.evaluation.labels.read_rows`; `rows` are of tagged sentences.
    """
    found, row = [], 0
    for batch in read_rows(model, params, rows, batch_size=batch_size):
        for said in batch[: len(rows) - row]:
            found.append(said[rows.places[rows.own(row)]])
            row += 1
    return found


def _tags(said: Sequence[np.ndarray], rows: Rows) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the tags that are said of each sentence, and the right ones."""
    names = np.array(rows.manifest.labels["names"])
    right = [names[rows.labels[rows.own(row)]].tolist() for row in range(len(rows))]
    return [names[one.argmax(axis=1)].tolist() for one in said], right


def judged(said: Sequence[np.ndarray], rows: Rows) -> dict[str, float]:
    """Returns the scores of `outputs`: precision, recall and f1 of entities, accuracy of tags."""
    found, right = _tags(said, rows)
    metrics, given = seqeval(), {"zero_division": 0}
    return {
        "accuracy": float(metrics.accuracy_score(right, found)),
        "precision": float(metrics.precision_score(right, found, **given)),
        "recall": float(metrics.recall_score(right, found, **given)),
        "f1": float(metrics.f1_score(right, found, **given)),
    }


def report(workdir: str, said: Sequence[np.ndarray], rows: Rows, *, costs: Mapping) -> None:
    """Writes the test's part of a run's report: entities by type, and the worst sentences."""
    if jax.process_index() != 0:
        return
    found, right = _tags(said, rows)
    scores = judged(said, rows)
    counts = np.array([_counts(*both) for both in zip(found, right)])
    low, high = interval(counts)
    lines = [
        f"{counts[:, 2].sum():,} entities in {len(rows):,} sentences; in brackets the 95% interval "
        "of the bootstrap over sentences.", "", "| score | value |", "|---|---:|",
        f"| F1 of entities | **{scores['f1']:.4f} [{low:.4f}, {high:.4f}]** |",
        *(f"| {name} | {scores[name]:.4f} |" for name in ("precision", "recall")),
        f"| accuracy of tags | {scores['accuracy']:.4f} |", *costs_table(costs), "", "## Types", "",
        "| type | support | precision | recall | F1 |", "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    table = seqeval().classification_report(right, found, output_dict=True, zero_division=0)
    for kind, row in table.items():
        if not kind.endswith(" avg"):
            lines.append(
                f"| {kind} | {row['support']:,} | {row['precision']:.3f} | {row['recall']:.3f} | "
                f"{row['f1-score']:.3f} |"
            )
    missed = counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]
    worst = [row for row in np.argsort(-missed, kind="stable")[:_WORST].tolist() if missed[row]]
    lines += ["", "## Worst sentences", "", f"{np.count_nonzero(missed):,} have an error."]
    between = " " if rows.manifest.inputs["units"] == "words" else ""
    texts = rows.texts()
    for row in worst:
        units = texts[row].split(UNIT)
        lines += ["", "```", between.join(units)]
        for name, tags in (("right", right[row]), ("said ", found[row])):
            own = (f"{between.join(units[a:b])} ({kind})" for kind, a, b in entities(tags))
            lines.append(f"{name}: {', '.join(own) or 'nothing'}")
        lines.append("```")
    put_section(Path(workdir), "Test", lines)


def _counts(found: Sequence[str], right: Sequence[str]) -> tuple[int, int, int]:
    """Returns how many entities are right, said and there."""
    said, there = set(entities(found)), set(entities(right))
    return len(said & there), len(said), len(there)


def interval(counts: np.ndarray) -> tuple[float, float]:
    """Returns a 95% interval of the F1 of entities, over resampled sentences (Efron 1979).

    Args:
      counts: int [n, 3], of each sentence the entities that are right, said and there.
    """
    random = np.random.Generator(np.random.Philox(key=hashed("bootstrap of sentences")))
    drawn = random.integers(0, len(counts), (_RESAMPLES, len(counts)))
    hits, said, there = (counts[drawn, column].sum(axis=1) for column in range(3))
    f1 = 2 * hits / np.maximum(said + there, 1)
    low, high = np.percentile(f1, [2.5, 97.5])
    return float(low), float(high)


def predict(model: Model, params, tokenizer, texts, manifest, *, batch_size: int) -> list[dict]:
    """Returns the entities that the model finds in texts of any kind.

    Arguments are those of `llm_jax.evaluation.labels.predict`; units are what white space divides,
    or all other characters, as the sentences had them that the model was trained with.

    Returns:
      for each text `text` and `entities`, each with `type`, `text`, `begin` and `end` (characters)
      and `probability`, the least of its tags'; `cut` where only its beginning was read.
    """
    units, longest = manifest.inputs["units"], manifest.sequence_length
    spans = [_spans(text, units) for text in texts]
    joined = [UNIT.join(text[a:b] for a, b in own) for text, own in zip(texts, spans)]
    ids, sizes, places = encoded_units(joined, tokenizer, longest, units=units)
    order = np.argsort([len(one) for one in ids], kind="stable")
    flat = np.array([token for index in order for token in ids[index]], np.uint32)
    ends = np.cumsum([len(ids[index]) for index in order])
    rows = TextRows(flat, ends, longest=longest, padding=manifest.pad_id or 0)
    said = (one for batch in read_rows(model, params, rows, batch_size=batch_size) for one in batch)
    chances = {}
    for index, values in zip(order.tolist(), said):
        values = values[places[index]].astype(np.float64)
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        chances[index] = shares / shares.sum(axis=1, keepdims=True)
    names, found = manifest.labels["names"], []
    for index, (text, own) in enumerate(zip(texts, spans)):
        tags = [names[tag] for tag in chances[index].argmax(axis=1)]
        sure = chances[index].max(axis=1)
        one = {"text": text, "entities": []}
        for kind, first, last in entities(tags):
            begin, end = own[first][0], own[last - 1][1]
            one["entities"].append(
                {"type": kind, "text": text[begin:end], "begin": begin, "end": end}
                | {"probability": round(float(sure[first:last].min()), 6)}
            )
        if sizes[index] > longest:
            one["cut"] = True
        found.append(one)
    return found


def _spans(text: str, units: str) -> list[tuple[int, int]]:
    """Returns where each unit begins and ends."""
    pattern = r"\S+" if units == "words" else r"\S"
    return [match.span() for match in re.finditer(pattern, text)]
