"""Trains tokenizers on any text and measures them side by side.

  python -m experiments.train_tokenizer --config=configs/tokenizer_text.py \\
      --workdir=runs/tokenizer --config.data.source=text --config.data.path=DIR \\
      --config.data.tokenizer.kind=unigram

leaves in the work directory the tokenizer in its standard files (sentencepiece's once more in
`transformers/`, as that library reads it) and `report.md`: compression, tokens a word by language,
unknown words, unused pieces and speed. To train a model with it:

  python -m experiments.pretrain --config=configs/gpt_quickstart.py --workdir=runs/gpt \\
      --config.data.tokenizer.path=runs/tokenizer

Of several (--config.kinds="('bpe','byte_bpe')" --config.vocab_sizes='(4096,8192)') each has a
folder KIND-SIZE there. The last line of stdout is one JSON object: tokenizers (of each its name,
path, pieces, bytes_per_token, fertility, unknown, unused, megabytes_per_second, training_seconds),
sample_bytes, held_out_bytes, seconds, finished.
"""

import shutil
import time
from pathlib import Path

from absl import flags

from experiments import entry
from llm_jax.configuration import parse
from llm_jax.data.tokenizers import comparison
from llm_jax.data.tokenizers.exported import for_transformers
from llm_jax.data.tokenizers.study import StudyConfig, open_texts, refuse_used
from llm_jax.data.tokenizers.training import train_tokenizer

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written; new or empty.")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    config = parse(StudyConfig, entry.required(CONFIG))
    workdir = Path(entry.required(WORKDIR))
    refuse_used(workdir)
    began = time.perf_counter()
    entry.say("reading")
    sample = open_texts(config.data, "train", config.data.tokenizer.sample_bytes)
    held_out = comparison.HeldOut(open_texts(config.data, "validation", config.measured_bytes))
    tokenizers, results = {}, []
    for name, vocab_size, options in config.candidates():
        entry.say(f"training {name}")
        start = time.perf_counter()
        tokenizer = train_tokenizer(sample, vocab_size=vocab_size, config=options)
        seconds = time.perf_counter() - start
        tokenizers[name] = tokenizer
        result = comparison.measure(tokenizer, sample, held_out)
        folder = workdir / name if config.several else workdir
        results.append({"name": name, "path": str(folder)} | result | {"training_seconds": seconds})
    page = comparison.report(results, tokenizers, held_out)
    partial = workdir.with_name(workdir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, tokenizer in tokenizers.items():
        folder = partial / name if config.several else partial
        folder.mkdir(parents=True)
        tokenizer.save(folder)
        if (folder / "tokenizer.model").is_file():
            (folder / "transformers").mkdir()
            for_transformers(folder / "tokenizer.model").save(folder / "transformers")
    (partial / "report.md").write_text(page, encoding="utf-8")
    partial.replace(workdir)
    entry.say(page)
    return {
        "tokenizers": results,
        "sample_bytes": sum(len(text.encode()) for text in sample),
        "held_out_bytes": held_out.bytes,
        "seconds": time.perf_counter() - began,
        "finished": True,
    }


if __name__ == "__main__":
    entry.launch(main)
