r"""Cleans labelled texts, drops what is there twice, and splits them for training and testing.

  python -m experiments.split_labelled --path=reviews.csv --text=review --label=stars \
      --output=runs/reviews

What a run tests on must not be in what it was pretrained on: this makes the split once, for both.
OUTPUT gets train.jsonl and test.jsonl, with the keys text and label; each class has the same share
of both. Equal texts (but for white space) are one; where their labels differ, all are left out.
The last line of stdout is one JSON object that counts it all.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

from absl import flags

from experiments import entry
from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning.normalize import STEPS, clean
from llm_jax.data.labelled import read_examples
from llm_jax.data.splits import split
from llm_jax.data.write_labelled import distinct

PATH = flags.DEFINE_string("path", None, "Table or folder, see llm_jax.data.labelled.")
TEXT = flags.DEFINE_string("text", "text", "Column with the text.")
LABEL = flags.DEFINE_string("label", "label", "Column with the label.")
OUTPUT = flags.DEFINE_string("output", None, "Folder that is not there yet.")
TEST = flags.DEFINE_float("test", 0.1, "Share of the test.", lower_bound=0.0, upper_bound=1.0)
CLEAN = flags.DEFINE_list(
    "clean",
    ["mojibake", "markup", "unicode", "width", "control", "white_space"],
    f"Steps that each text goes through, of {', '.join(STEPS)}.",
)


def main() -> dict:
    """Writes the split; returns the result that is printed in JSON."""
    output = Path(entry.required(OUTPUT))
    if output.exists():
        raise ConfigError(f"--output={output} is there already: give a new folder")
    if not 0 < TEST.value < 1:
        raise ConfigError(
            f"--test={TEST.value} leaves one part empty: give a share between 0 and 1"
        )
    given, bad = read_examples(entry.required(PATH), text=TEXT.value, label=LABEL.value)
    cleaned = [(clean(text, CLEAN.value), label) for text, label in given]
    kept, dropped = distinct([one for one in cleaned if one[0].strip()])
    shares = {"train": 1 - TEST.value, "test": TEST.value}
    parts = split([label for _, label in kept], shares)
    partial = output.with_name(output.name + ".partial")
    partial.mkdir(parents=True)
    try:
        for name, indices in parts.items():
            with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for index in indices:
                    line = dict(zip(("text", "label"), kept[index]))
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    counts = {name: Counter(kept[index][1] for index in own) for name, own in parts.items()}
    changed = sum(one != other for one, other in zip(given, cleaned))
    return {"given": len(given), "bad": len(bad), "changed_by_cleaning": changed} | dropped | counts


if __name__ == "__main__":
    entry.launch(main)
