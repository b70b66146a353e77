"""What cleaning is worth: a GPT on text with planted junk, and on the same text cleaned.

    python -m tests.data.pipeline.study [--steps=250] [--seeds=3] [--junk=4]

The text is the standard library's training modules, in files of one module each. Planted beside it
is `junk` times as much: half of it spam (sentences of a seller's templates, new words in each),
half near-duplicates (one module in twelve, again and again, with some identifiers changed). One
run trains on that; the other on what `experiments.prepare_data` leaves of it, with a list of ten
words that the spam uses. Both make their own tokenizer, as a user would, take equal steps, and are
measured in bits per byte of modules that neither saw. The last line is one JSON object.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from llm_jax.data import DataConfig, TokenizerConfig, open_split, prepare
from llm_jax.data.sources import open_source
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.training.restore import load_model

LISTED = (
    "casino", "jackpot", "viagra", "refinance", "lottery",
    "cryptocoin", "forex", "payday", "slots", "bettingsite",
)  # fmt: skip
TEMPLATES = (
    "Win the {0} today! Call {1} now and get {2} free {0} spins at www.{3}.example. ",
    "Lowest {0} rates for {3} and {1}: only {2} dollars, no questions asked!!! ",
    "Dear {1}, you were chosen for our {0} offer number {2}, answer at once to {3}. ",
    "Best {0} of {1}, {2} happy customers, order {3} with express delivery. ",
)


def spam(chance: random.Random, words: list[str]) -> str:
    """Returns one seller's page."""
    sentences = []
    for _ in range(chance.randrange(5, 60)):
        first, second = chance.choices(words, k=2)
        given = chance.choice(LISTED), first, chance.randrange(9999), second
        sentences.append(chance.choice(TEMPLATES).format(*given))
    return "".join(sentences)


def plant(folder: Path, texts: list[str], share: float, seed: int) -> None:
    """Writes the texts with `share` times as much junk beside them."""
    chance = random.Random(seed)
    total = share * sum(map(len, texts))
    words = sorted(set(re.findall("[a-z]{4,9}", "".join(texts[:50]))))
    copied = chance.sample(texts, len(texts) // 12)
    junk, size = [], 0
    while size < total:
        if size < total / 2:
            text = spam(chance, words)
        else:
            text = chance.choice(copied)
            own = re.findall(r"\b[a-z]{4,9}\b", text) or words
            for _ in range(3):
                text = re.sub(rf"\b{chance.choice(own)}\b", chance.choice(words), text)
        junk.append(text)
        size += len(text)
    everything = [*texts, *junk]
    chance.shuffle(everything)
    folder.mkdir(parents=True)
    for number, text in enumerate(everything):
        (folder / f"{number:05}.txt").write_text(text)


def run(name: str, *flags) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, flags)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def bits_per_byte(workdir: Path, held_out: Path) -> float:
    """Returns what the run of `workdir` needs for the texts in `held_out`."""
    mesh = make_mesh(MeshConfig())
    restored = load_model(str(workdir), mesh=mesh)
    config = DataConfig(
        "text", str(held_out), 256, cross_document_attention=True,
        tokenizer=TokenizerConfig(path=str(workdir)),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory, jax.set_mesh(mesh):
        prepare(config, vocab_size=restored.model.config.vocab_size, directory=directory)
        rows = open_split(directory, "train")
        scores = evaluate(
            restored.model, restored.params, rows, batch_size=16, objective=restored.run.objective
        )
    return scores["bits_per_byte"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--junk", type=float, default=4.0)
    given = parser.parse_args()
    source = open_source(DataConfig("stdlib"))
    results = {"raw": [], "cleaned": []}
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        texts = [one.text for one in source.documents("train")]
        plant(here / "raw", texts, given.junk, seed=0)
        (here / "held_out").mkdir()
        for number, one in enumerate(source.documents("validation")):
            (here / "held_out" / f"{number}.txt").write_text(one.text)
        (here / "words.txt").write_text("\n".join(LISTED))
        cleaning = run(
            "prepare_data", "--config=configs/data_text.py", f"--workdir={here / 'data'}",
            f"--config.data.path={here / 'raw'}", f"--config.filter.words=('{here}/words.txt',)",
            "--config.workers=2",
        )  # fmt: skip
        print({name: cleaning[name] for name in ("documents_in", "documents_out", "removed")})
        for seed in range(given.seeds):
            for name, flags in (
                ("raw", ("text", here / "raw")),
                ("cleaned", ("cleaned", here / "data" / "cleaned")),
            ):
                workdir = here / f"{name}{seed}"
                run(
                    "pretrain", "--config=configs/gpt_quickstart.py", f"--workdir={workdir}",
                    f"--config.data.source={flags[0]}", f"--config.data.path={flags[1]}",
                    f"--config.seed={seed}", f"--config.steps={given.steps}",
                    "--config.sampling.prompts=()", "--config.evaluation.rows=16",
                )  # fmt: skip
                results[name].append(bits_per_byte(workdir, here / "held_out"))
                print(name, seed, results[name][-1], flush=True)
    means = {name: statistics.mean(values) for name, values in results.items()}
    print(json.dumps(results | {"means": means, "removed": cleaning["removed"]}))


if __name__ == "__main__":
    main()
