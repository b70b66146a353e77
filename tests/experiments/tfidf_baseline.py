"""A logistic regression over TF-IDF, on the splits that a run prepared: what a model must beat.

python -m tests.experiments.tfidf_baseline runs/bbc/data
python -m tests.experiments.tfidf_baseline runs/zh_tuned/data char

It reads whole texts, by their words or, of languages without spaces, by 1 to 3 characters; how
strong it is regularized is chosen by validation. It prints one JSON object.
"""

import json
import sys
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression


def main(directory: Path, analyzer: str = "word") -> dict:
    """Fits and tests; returns the test accuracy and what was chosen."""
    parts = {}
    for part in ("train", "validation", "test"):
        with (directory / f"labelled-{part}.jsonl").open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        parts[part] = [line["text"] for line in lines], [line["label"] for line in lines]
    sizes = (1, 3) if analyzer == "char" else (1, 2)
    vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=sizes, sublinear_tf=True)
    vectorizer.fit(parts["train"][0])
    given = {part: (vectorizer.transform(texts), labels) for part, (texts, labels) in parts.items()}
    found = {}
    for strength in (1, 4, 16, 64):
        model = LogisticRegression(C=strength, max_iter=2000).fit(*given["train"])
        found[model.score(*given["validation"]), -strength] = model
    (validation, strength), model = max(found.items())
    return {
        "accuracy": model.score(*given["test"]),
        "validation_accuracy": validation,
        "C": -strength,
        "examples": len(parts["train"][0]),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
