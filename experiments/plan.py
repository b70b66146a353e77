r"""Plans a run for accelerators that are not there, with the TPU's own compiler, on any CPU.

  python -m experiments.plan --config=configs/llama_8b.py --topology=v6e:8x8

compiles the real training step for 64 chips (minutes; no TPU, no data, no weights) and says whether
it fits, what each device holds, what crosses each mesh axis how often, and how fast it would be: a
roofline, within a quarter. --search tries meshes, remat policies, microbatches and compiler options
and ranks what fits; --write=configs/NAME.py writes the winner as a configuration that states
only its difference. --price=1.2 adds what a billion tokens cost at that price for a chip's hour.
--decode=64:8192 plans the decoding of a token instead, 64 rows with 8,192 tokens of context each.

Needs libtpu: pip install -c constraints.txt -e '.[tpu-plan]'.

The last line of stdout is one JSON object: fits, bytes_per_device, predicted_mfu,
predicted_mfu_low, predicted_mfu_high, tokens_per_second, collective_bytes (sent by a device in a
step, by mesh axis and kind), mesh; and step_seconds, executed_flops, estimated_cycles, ...
"""

import dataclasses
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments import entry
from llm_jax.configuration import ConfigError
from llm_jax.planning import decode, roofline, search, step, topology, write
from llm_jax.training.progress import count

CONFIG = entry.define_config()
flags.adopt_module_key_flags(entry)
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Chips and their shape: v6e:8x8, v5p:4x4x8, v5e:16x16, tpu7x:4x4x4, ..."
)
SLICES = flags.DEFINE_integer("slices", 1, "How many of them, joined by the data center's network.")
OPTIONS = flags.DEFINE_string(
    "compiler_options", "overlap", "XLA's: overlap, default, or NAME=VALUE,NAME=VALUE."
)
SEARCH = flags.DEFINE_bool("search", False, "Rank meshes, remat, microbatches and options.")
WRITE = flags.DEFINE_string("write", None, "Writes the plan's configuration to this file.")
PRICE = flags.DEFINE_float("price", None, "Of one chip for an hour.")
DECODE = flags.DEFINE_string(
    "decode", None, "ROWS:LENGTH plans a decoded token of so many rows and context instead."
)
HLO = flags.DEFINE_string("hlo", None, "Writes the compiled program's text to this file.")


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    step.without_data(entry.required(CONFIG))
    run = entry.run_config(CONFIG)
    chips = topology.describe(entry.required(TOPOLOGY), SLICES.value)
    compiler_options = search.options(OPTIONS.value, chips.generation)
    if DECODE.value:
        rows, length = decode.parse(DECODE.value)
        result = decode.plan(run, chips, rows, length, compiler_options)
        for name, value in result.items():
            say(name, str(value))
        return result
    asked = config_flags.get_config_filename(flags.FLAGS["config"])
    if WRITE.value:
        write.check(WRITE.value, asked)
    if not SEARCH.value:
        result, chosen = plan(run, chips, compiler_options), run
    else:

        def cost(candidate):
            found = plan(
                candidate.run,
                chips,
                search.options(candidate.options, chips.generation),
                str(candidate),
            )
            return found.get("step_seconds"), found

        ranked = search.search(run, len(chips.devices), cost)
        for seconds, candidate, found in ranked:
            say(f"{seconds:8.2f} s", f"{candidate}: MFU {found['predicted_mfu']:.1%}")
        if not ranked:
            raise ConfigError(
                f"nothing that was tried fits {TOPOLOGY.value}: give more chips, a smaller "
                "batch_size or a smaller model"
            )
        _, winner, result = ranked[0]
        chosen, compiler_options = winner.run, search.options(winner.options, chips.generation)
        result |= {"winner": str(winner), "tried": len(ranked)}
    if WRITE.value:
        mfu = result["predicted_mfu"]
        why = f"predicted for {TOPOLOGY.value}, " + (f"MFU {mfu:.1%}" if mfu else "does not fit")
        write.write(WRITE.value, asked, chosen, compiler_options, why)
    return result


def plan(run, chips, compiler_options, name="") -> dict:
    """Compiles the step of `run` and returns what is known of it, printing it on the way."""
    compiled = step.compile_step(run, chips.devices, compiler_options)
    mesh = {axis: size for axis, size in compiled.trainer.mesh.shape.items() if size > 1}
    result = {
        "fits": compiled.fits,
        "bytes_per_device": compiled.bytes,
        "predicted_mfu": None,
        "predicted_mfu_low": None,
        "predicted_mfu_high": None,
        "tokens_per_second": None,
        "collective_bytes": {},
        "mesh": mesh,
        "compile_seconds": compiled.compile_seconds,
        "executed_flops": compiled.executed_flops,
    }
    say("plan", name or f"{TOPOLOGY.value}, {mesh}")
    say("memory", ", ".join(f"{kind} {size / 2**30:.2f}" for kind, size in compiled.bytes.items()))
    if not compiled.fits:
        say("does not fit", compiled.why_not)
        return result | {"why_not": compiled.why_not}
    if HLO.value:
        Path(HLO.value).write_text(compiled.program.text)
    axes, sizes = zip(*compiled.trainer.mesh.shape.items())
    collectives = compiled.program.collectives(axes, sizes, run.mesh.across_slices)
    for each in sorted(collectives, key=lambda each: -each.sent)[:12]:
        beside = "beside compute" if each.overlapped else "alone"
        say(
            f"{each.kind}",
            f"over {'*'.join(each.axes)}, {count(each.size)}B x {each.times}, {beside}: "
            f"{each.source[-60:]}",
        )
    found = roofline.predict(compiled, chips, collectives)
    example = dataclasses.asdict(found)
    formula = example.pop("flops")["formula"]
    result |= {f"predicted_{k}" if k.startswith("mfu") else k: v for k, v in example.items()}
    overlapped = sum(each.sent for each in collectives if each.overlapped)
    result |= {
        "collective_bytes": roofline.by_axis(collectives),
        "overlapped_share": overlapped / max(1.0, sum(each.sent for each in collectives)),
        "estimated_cycles": compiled.program.cycles(),
        "pallas_calls": compiled.program.count("tpu_custom_call"),
        "formula": f"{roofline.FORMULA}; FLOPs a token = {formula}",
        "error": roofline.ERROR,
    }
    if PRICE.value is not None:
        held = len(chips.devices) // chips.chip.per_chip
        result["cost_per_billion_tokens"] = roofline.cost_per_billion_tokens(
            PRICE.value, held, found.tokens_per_second
        )
    say(
        "step",
        f"{found.step_seconds:.3f} s: compute {found.compute_seconds:.3f}, collectives "
        f"{found.collective_seconds:.3f}, exposed {found.exposed_seconds:.3f}",
    )
    say(
        "speed",
        f"{count(found.tokens_per_second)} tokens/s, MFU {found.mfu:.1%}, {result['formula']}",
    )
    return result


def say(name: str, text: str) -> None:
    """Prints a line of the plan on stderr."""
    print(f"{name:20} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    entry.launch(main)
