r"""Measures training speed: the real step and the real loop, on random tokens.

  python -m experiments.benchmark --config=configs/gpt_quickstart.py --peer=transformers

Any shape can be asked for:

  python -m experiments.benchmark --config=configs/gpt_quickstart.py --peer=transformers \
      --config.model.num_layers=6 --config.model.hidden_size=384 --config.model.num_heads=6 \
      --config.model.vocab_size=4096 --config.data.sequence_length=256 --config.batch_size=8

The model is the configuration's; the optimizer is AdamW whatever it says (--optimizer=config takes
its own), so that the same work is compared. --peer=transformers runs GPT2LMHeadModel of the same
sizes in PyTorch (fused AdamW, the same gradient clipping, scaled_dot_product_attention), of a
configuration for labelled texts BertForSequenceClassification, a step of one after a step of the
other, in the same process; the ratio is that of the median step times. A classifier's outputs are
--config.tuning.head.outputs. --peer=full runs our own step by --config.method=full.

The last line of stdout is one JSON object. tokens_per_second, step_seconds (median), step_spread
(half the range from the 10th to the 90th percentile, over the median); mfu: FLOPs with causal
attention counted half over matmul_peak_flops, measured here; mfu_whole_attention: counted whole;
compile_seconds; peak_bytes; loop_overhead: the share of the training loop's time in which no step
runs; and with a peer peer_tokens_per_second and ratio (above 1: this project is faster).
"""

import dataclasses
import itertools
import sys
import tempfile
import time

import jax
import numpy as np
from absl import flags

from experiments import entry, peers
from llm_jax.configuration import ConfigError
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.training import hardware, loop, monitor
from llm_jax.training.goodput import Ledger
from llm_jax.training.progress import count
from llm_jax.training.trainer import make_trainer

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
PEER = flags.DEFINE_enum(
    "peer", "", ["", "transformers", "full"], "What to compare with in the same run."
)
OPTIMIZER = flags.DEFINE_enum(
    "optimizer", "adamw", ["adamw", "config"], "AdamW, or the configuration's own."
)
ROUNDS = flags.DEFINE_integer("rounds", 20, "Timed steps of each side.")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    run = entry.run_config(CONFIG)
    if ROUNDS.value < 2:
        raise ConfigError(f"--rounds={ROUNDS.value}: give 2 or more")
    if OPTIMIZER.value == "adamw":
        run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, name="adamw"))
    # The schedule must not end, and the loop must write as seldom as a real run.
    run = dataclasses.replace(run, steps=max(run.steps, 100 * ROUNDS.value))
    trainer = make_trainer(run)
    length = run.data.sequence_length
    tokens = run.batch_size * length
    flops = trainer.model.flops_per_token(length)

    with jax.set_mesh(trainer.mesh):
        kernels = trainer.model.kernels(run.batch_size // run.accumulation, length)
        state = trainer.new_state()
        batches = loop.place_ahead(random_batches(run), batch_sharding(trainer.mesh))
        batch = next(batches)
        began = time.perf_counter()
        compiled = trainer.train_step.lower(state, batch).compile()
        compile_seconds = time.perf_counter() - began
        for _ in range(2):
            state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        peak_bytes = hardware.peak_bytes()

        peer = peers.transformers_step(run) if PEER.value == "transformers" else None
        if PEER.value == "full":
            peer = peers.full_step(run, batch)
        peak = hardware.matmul_peak(trainer.policy.dtype, trainer.mesh.size)
        ours, theirs = [], []
        for _ in range(ROUNDS.value):
            began = time.perf_counter()
            state, metrics = compiled(state, batch)
            jax.block_until_ready(metrics)
            ours.append(time.perf_counter() - began)
            if peer:
                began = time.perf_counter()
                peer()
                theirs.append(time.perf_counter() - began)
        peak = max(peak, hardware.matmul_peak(trainer.policy.dtype, trainer.mesh.size))
        overhead = loop_overhead(run, trainer, compiled, state, batches, peak)

    step = float(np.median(ours))
    low, high = np.percentile(ours, [10, 90])
    result = {
        "tokens_per_second": tokens / step,
        "step_seconds": step,
        "step_spread": float(high - low) / 2 / step,
        "flops_per_second": flops.total * tokens / step,
        "mfu": flops.total * tokens / step / peak,
        "mfu_whole_attention": flops.total_whole_attention * tokens / step / peak,
        "matmul_peak_flops": peak,
        "compile_seconds": compile_seconds,
        "peak_bytes": peak_bytes,
        "loop_overhead": overhead,
        "optimizer": run.optim.name,
        "kernels": kernels,
    }
    if peer:
        seconds = float(np.median(theirs))
        result |= {"peer_tokens_per_second": tokens / seconds, "ratio": seconds / step}
    for name, value in result.items():
        shown = count(value) if isinstance(value, float) else value
        print(f"{name:24} {shown}", file=sys.stderr)
    return result


def random_batches(run):
    """Yields batches of random tokens, as the data room's: a row is one document, or text."""
    rng = np.random.default_rng(0)
    shape = (run.batch_size, run.data.sequence_length)
    labelled = run.objective.kind == "labelled"
    judged = shape if labelled and run.objective.target == "tags" else shape[:1]
    while labelled:
        yield {
            "tokens": rng.integers(0, run.model.vocab_size, shape, np.int32),
            "mask": np.ones(shape, np.int32),
            "weights": np.ones(judged, np.float32),
            "labels": rng.integers(0, run.tuning.head.outputs, judged, np.int32),
            "example_ids": np.arange(shape[0], dtype=np.int32),
        }
    while True:
        tokens = rng.integers(0, run.model.vocab_size, (shape[0], shape[1] + 1), np.int32)
        yield {
            "tokens": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "weights": np.ones(shape, np.float32),
            "example_ids": np.arange(shape[0], dtype=np.int32),
        }


def loop_overhead(run, trainer, compiled, state, batches, peak, repeats: int = 5) -> float:
    """Returns the share of the loop's time that bare steps do not take: best blocks of each."""
    bare, looped = [], []
    with tempfile.TemporaryDirectory() as workdir:
        ledger = Ledger()
        watch = monitor.Monitor(workdir, run, trainer.model, peak, 0, {}, ledger)
        for number in range(repeats):
            steps = ROUNDS.value // 2
            host = list(itertools.islice(batches, steps))
            began = time.perf_counter()
            for batch in host:
                state, _ = compiled(state, batch)
            jax.block_until_ready(state)
            bare.append(time.perf_counter() - began)
            first = number * steps
            began = time.perf_counter()
            state, _ = loop.fit(
                compiled, state, batches, first=first, steps=first + steps,
                on_metrics=watch.stepped, ledger=ledger,
            )  # fmt: skip
            jax.block_until_ready(state)
            looped.append(time.perf_counter() - began)
    return 1 - min(bare) / min(looped)


if __name__ == "__main__":
    entry.launch(main)
