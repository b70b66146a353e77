"""A conditional random field over characters, on the splits that a run prepared.

python -m tests.experiments.crf_baseline runs/ner_tuned/data

Features of a character are the usual ones: those around it, their pairs, and of what kind they are.
It prints one JSON object with precision, recall and f1 of entities, as seqeval counts.
"""

import json
import sys
import unicodedata
from pathlib import Path

import pycrfsuite
from seqeval.metrics import f1_score, precision_score, recall_score

from llm_jax.data.tagged import UNIT


def sentences(directory: Path, *parts: str):
    """Yields the characters and tags of the sentences of splits."""
    for part in parts:
        for line in (directory / f"labelled-{part}.jsonl").open(encoding="utf-8"):
            one = json.loads(line)
            yield one["text"].split(UNIT), one["label"].split(" ")


def features(characters: list[str]) -> list[list[str]]:
    """Returns the features of each character."""
    padded = ["<<", "<", *characters, ">", ">>"]
    kinds = [unicodedata.category(one) if len(one) == 1 else one for one in padded]
    found = []
    for i in range(2, len(padded) - 2):
        own = [f"{k}:{padded[i + k]}" for k in range(-2, 3)]
        own += [f"{k},{k + 1}:{padded[i + k]}{padded[i + k + 1]}" for k in range(-2, 2)]
        own += [f"-1,1:{padded[i - 1]}{padded[i + 1]}"]
        own += [f"kind {k}:{kinds[i + k]}" for k in range(-1, 2)]
        found.append([*own, "bias"])
    return found


def main(directory: Path) -> dict:
    """Fits and tests; returns the scores."""
    model = str(directory.with_name("crf.model"))
    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": 0.1, "c2": 0.1, "max_iterations": 60})
    for characters, tags in sentences(directory, "train", "validation"):
        trainer.append(features(characters), tags)
    trainer.train(model)
    tagger = pycrfsuite.Tagger()
    tagger.open(model)
    right, said = [], []
    for characters, tags in sentences(directory, "test"):
        right.append(tags)
        said.append(tagger.tag(features(characters)))
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    return {name: float(score(right, said)) for name, score in scores.items()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
