r"""Says what a fine-tuned model predicts of texts.

  python -m experiments.predict --workdir=runs/bbc --text="Shares fell sharply on Monday."
  python -m experiments.predict --workdir=runs/bbc --input=texts.txt > predictions.jsonl
  cat texts.txt | python -m experiments.predict --workdir=runs/bbc --input=-

A file has a text a line; `-` is standard input. Each text gives a line of JSON with its label and
the classes' probabilities, a value, or the entities in it; the last line of stdout is one JSON
object with the number of texts.
"""

import json
import sys
from pathlib import Path

from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.evaluation.judge import judge_of
from llm_jax.training.restore import load_model

WORKDIR = flags.DEFINE_string("workdir", None, "The run whose model predicts.")
TEXT = flags.DEFINE_multi_string("text", [], "A text; may be given several times.")
INPUT = flags.DEFINE_string("input", "", "A file with a text a line; - is standard input.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Texts at a time.", lower_bound=1)
STEP = flags.DEFINE_string("step", "best", "Checkpoint: a step, best or last.")
flags.adopt_module_key_flags(entry)


def main() -> dict:
    """Prints the predictions; returns the result that is printed in JSON."""
    workdir = entry.required(WORKDIR)
    texts = [text for text in TEXT.value + _lines(INPUT.value) if text.strip()]
    if not texts:
        raise ConfigError("there is no text: give --text=... or --input=FILE")
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    restored = load_model(workdir, step)
    if restored.model.head is None:
        raise ConfigError(
            f"{workdir} holds a model without a head: tune one with python -m experiments.finetune"
        )
    manifest = data.load_manifest(restored.tokenizer_path)
    found = judge_of(manifest.inputs["target"]).predict(
        restored.model,
        restored.params,
        data.load_tokenizer(restored.tokenizer_path),
        texts,
        manifest,
        batch_size=BATCH_SIZE.value,
    )
    for one in found:
        print(json.dumps(one, ensure_ascii=False))
    return {"texts": len(texts), "step": restored.step, "cut": sum("cut" in one for one in found)}


def _lines(name: str) -> list[str]:
    if not name:
        return []
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--input={name} cannot be read ({error})") from None
    return text.splitlines()


if __name__ == "__main__":
    entry.launch(main)
