r"""Trains the same ViT with one image augmentation after the other, and counts what is read right.

  python -m experiments.compare_augmentations --config=configs/vit_digits.py \
      --workdir=runs/augmentations

The images of `data.path` are scikit-learn's 1,797 digits (`make assets`): 500 to learn from, the
other 1,297 to be asked about.
Each augmentation of `AUGMENTATIONS` in the configuration's file is trained with every seed. What
is done stands in WORKDIR/results.jsonl, a run a line, and is not done again; the table is in
WORKDIR/table.md. Any key of the configuration may be changed, as in `experiments.pretrain`.

The last line of stdout is one JSON object: by augmentation the mean and the deviation of accuracy.
"""

import itertools
import json
import runpy
import statistics
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging

from experiments import entry
from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data.images import open_images
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.training import loop
from llm_jax.training.run import parse_run
from llm_jax.training.trainer import make_trainer

CONFIG = entry.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the results; made if it is not there.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each augmentation, with the seeds 0, 1, ...")
ONLY = flags.DEFINE_list("only", [], "Augmentations, with commas between; none: all.")

FILE = "configs/vit_digits.py"
LEARNED = 500


class _Others:
    """Rows of the digits that no run learns from, normalized as those it does."""

    split = "validation"

    def __init__(self, images, labels, scale):
        pixels = (images[:, None].astype(np.float32) - scale["mean"]) / scale["deviation"]
        self._pixels, self._labels = np.float32(pixels), labels

    def __len__(self):
        return len(self._labels)

    def amount(self):
        """Says how many there are."""
        return f"{len(self)} images"

    def take(self, indices, randoms=()):
        """Returns a batch; -1 gives a row of weight 0."""
        del randoms
        rows, weights = np.maximum(indices, 0), np.float32(np.asarray(indices) >= 0)
        return {"pixels": self._pixels[rows], "labels": self._labels[rows], "weights": weights}


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    config, workdir = entry.required(CONFIG), Path(entry.required(WORKDIR))
    augmentations = runpy.run_path(FILE)["AUGMENTATIONS"]
    names = ONLY.value or list(augmentations)
    if unknown := set(names) - set(augmentations):
        raise ConfigError(
            f"--only names {', '.join(unknown)}: known are {', '.join(augmentations)}"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    images, labels = _digits(parse_run(config).data)
    config.data.path = str(workdir / "digits.npz")
    # One in five of a file is held out: of 625 that leaves 500.
    file = LEARNED * 5 // 4
    np.savez(config.data.path, images=images[:file], labels=labels[:file])
    results = workdir / "results.jsonl"
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    for seed, name in itertools.product(range(SEEDS.value), names):
        if any((run["name"], run["seed"]) == (name, seed) for run in done):
            continue
        config.seed = seed
        mapping = config.to_dict()
        mapping["objective"]["device_augmentation"] = augmentations[name]
        accuracy = _accuracy(parse_run(mapping), workdir / "data", images[file:], labels[file:])
        done.append({"name": name, "seed": seed, "accuracy": accuracy})
        logging.info("%s, seed %d: %.2f%%", name, seed, 100 * accuracy)
        with results.open("a") as lines:
            lines.write(json.dumps(done[-1]) + "\n")
    summary = {name: _summary([r["accuracy"] for r in done if r["name"] == name]) for name in names}
    (workdir / "table.md").write_text(_table(summary))
    return {"runs": len(done), "accuracy": summary}


def _digits(config):
    """Returns images uint8 [N, H, W] and labels int32 [N], in an order of their own."""
    examples = list(open_images(config).examples())
    examples = [examples[place] for place in np.random.default_rng(0).permutation(len(examples))]
    # The file's shades go from 0 to 16.
    images = np.stack(
        [np.minimum(one.image[..., 0].astype(np.int32) * 16, 255) for one in examples]
    )
    return images.astype(np.uint8), np.array([one.label for one in examples], np.int32)


def _accuracy(run, directory, images, labels) -> float:
    """Returns the share of the digits outside the train split that a new run reads right."""
    manifest = data.prepare(run.data, vocab_size=0, directory=directory, objective=run.objective)
    rows, held_out = (
        data.open_split(directory, split, run.objective) for split in ("train", "validation")
    )
    trainer = make_trainer(run)
    batches = data.batches(rows, seed=run.seed, batch_size=run.batch_size, threads=1)
    with jax.set_mesh(trainer.mesh):
        state, _ = loop.fit(
            trainer.train_step,
            trainer.new_state(),
            loop.place_ahead(batches, batch_sharding(trainer.mesh)),
            first=0,
            steps=run.steps,
            on_metrics=lambda step, metrics: None,
        )
        batches.close()
        right = 0.0
        for others in (held_out, _Others(images, labels, manifest.images)):
            scores = evaluate(
                trainer.model, state.params, others,
                batch_size=run.evaluation.batch_size, objective=run.objective,
            )  # fmt: skip
            right += scores["accuracy"] * len(others)
    return right / (len(held_out) + len(images))


def _summary(accuracies: list[float]) -> dict:
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return {"mean": statistics.mean(accuracies), "deviation": spread, "runs": len(accuracies)}


def _table(summary: dict) -> str:
    lines = ["| augmentation | accuracy, % | against none | runs |", "|---|---|---|---|"]
    base = summary.get("none", {}).get("mean")
    for name, found in sorted(summary.items(), key=lambda item: -item[1]["mean"]):
        against = "" if base is None or name == "none" else f"{100 * (found['mean'] - base):+.2f}"
        value = f"{100 * found['mean']:.2f} ± {100 * found['deviation']:.2f}"
        lines.append(f"| {name} | {value} | {against} | {found['runs']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    entry.launch(main)
