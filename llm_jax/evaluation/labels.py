"""What a model with a head says of the examples of a split, and what that is worth."""

import functools
import itertools
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from llm_jax.configuration import ConfigError
from llm_jax.data import Rows, eval_batches
from llm_jax.data.labelled import BETWEEN
from llm_jax.data.labelled_rows import TextRows
from llm_jax.data.write_labelled import encoded
from llm_jax.evaluation.classification import classification_scores, regression_scores
from llm_jax.evaluation.classification_report import write_classification_report
from llm_jax.evaluation.perplexity import placement
from llm_jax.models import Model
from llm_jax.training.metrics import learning_curve


@functools.partial(jax.jit, static_argnums=0)
def _read(model: Model, params, batch):
    return model.read(params, batch["tokens"], batch["mask"], token_types=batch.get("token_types"))


def outputs(model: Model, params, rows: Rows, *, batch_size: int) -> np.ndarray:
    """Returns what the head gives for `rows`, in their order: float32 [n, outputs].

    Arguments are those of `read_rows`.
    """
    return np.concatenate(list(read_rows(model, params, rows, batch_size=batch_size)))[: len(rows)]


def read_rows(model: Model, params, rows: Rows, *, batch_size: int) -> Iterator[np.ndarray]:
    """Yields what the head gives for each batch of `rows`, the last one filled up.

    Args:
      model: with a head.
      params: its parameters; on a mesh of several processes each has its own part of a batch.
      rows: of labelled texts.
      batch_size: rows per batch, rounded up to what the mesh divides.
    """
    params = jax.device_put(params)
    place, shards, block = placement(params)
    batch_size = -(-batch_size // shards) * shards
    rounds = -(-len(rows) // batch_size)
    pending = []
    for batch in itertools.islice(eval_batches(rows, batch_size=batch_size, **block), rounds):
        read = batch.keys() & {"tokens", "mask", "token_types"}
        pending.append(_read(model, params, {name: place(batch[name]) for name in sorted(read)}))
        if len(pending) > 1:  # one batch late: the device does not wait for the host
            yield _whole(pending.pop(0))
    yield from map(_whole, pending)


def _whole(array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def judged(said: np.ndarray, rows: Rows) -> dict[str, float]:
    """Returns the scores of `outputs`, of classes or numbers: `evaluation.classification`."""
    if names := rows.manifest.labels["names"]:
        return classification_scores(said, rows.labels, names)
    return regression_scores(said[:, 0], rows.labels)


def report(workdir: str, said: np.ndarray, rows: Rows, *, costs: Mapping) -> None:
    """Writes the test's part of a run's report, where classes are predicted."""
    if names := rows.manifest.labels["names"]:
        write_classification_report(
            workdir,
            title="Test",
            logits=said,
            labels=rows.labels,
            names=names,
            texts=rows.texts(),
            costs=costs,
            curve=learning_curve(workdir),
        )


def text_outputs(model: Model, params, tokenizer, texts, manifest, *, batch_size: int):
    """Returns what the head gives for `texts`, float32 [n, outputs], and each one's tokens.

    Arguments are those of `predict`; more tokens than the manifest's `sequence_length` were cut.
    """
    longest = manifest.sequence_length
    if manifest.inputs["second"]:
        if wrong := [text for text in texts if text.count("\t") != 1]:
            raise ConfigError(f"{wrong[0][:60]!r} is no pair: give two texts with a tab between")
        texts = [text.replace("\t", BETWEEN) for text in texts]
    window = manifest.inputs.get("window", 0)
    ids, sizes, seconds = encoded(texts, tokenizer, longest, window)
    order = np.argsort([len(one) for one in ids], kind="stable")
    flat = np.array([token for index in order for token in ids[index]], np.uint32)
    ends = np.cumsum([len(ids[index]) for index in order])
    more = {"seconds": np.array(seconds)[order]} if manifest.inputs["second"] else {}
    more |= {"longest": longest, "padding": manifest.pad_id or 0, "window": window}
    rows = TextRows(flat, ends, **more)
    said = np.empty((len(texts), model.head.outputs), np.float32)
    said[order] = outputs(model, params, rows, batch_size=batch_size)
    return said, sizes


def predict(model: Model, params, tokenizer, texts, manifest, *, batch_size: int) -> list[dict]:
    """Returns what the model says of texts of any kind.

    Args:
      model, params: with a head.
      tokenizer: the model's.
      texts: strings, of pairs with a tab between; longer ones than the model was trained with are
        cut there.
      manifest: of the labelled texts that it was trained with.
      batch_size: texts at a time; they are sorted by length.

    Returns:
      for each text `text`; `label` (of several classes a list) and `probabilities` by class, or
      `value` of a number; `cut` where only its beginning was read.
    """
    given = texts
    said, sizes = text_outputs(model, params, tokenizer, texts, manifest, batch_size=batch_size)
    longest = manifest.sequence_length
    names, target = manifest.labels["names"], manifest.inputs["target"]
    found = []
    for text, size, values in zip(given, sizes, said.astype(np.float64)):
        one = {"text": text}
        if target == "number":
            one["value"] = float(values[0])
        else:
            several = target == "classes"
            shares = 1 / (1 + np.exp(-values)) if several else np.exp(values - values.max())
            shares = shares if several else shares / shares.sum()
            likeliest = names[int(values.argmax())]
            likely = [name for name, share in zip(names, shares) if share > 0.5]
            one["label"] = likely if several else likeliest
            one["probabilities"] = {n: round(float(p), 6) for n, p in zip(names, shares)}
        if size > longest:
            one["cut"] = True
        found.append(one)
    return found
