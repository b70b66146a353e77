"""Plans of small depth, recorded: where parameters lie, and what a step sends how often.

python -m tests.planning.record     writes tests/planning/plans.json anew; look at what changed.

It needs libtpu (extra tpu-plan); the compiler's version is in the file.
"""

import json
import runpy
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import jax

from llm_jax.planning import search, step, topology
from llm_jax.training.run import parse_run

FILE = Path(__file__).with_name("plans.json")

SMALL = {
    "model.num_layers": 3, "model.hidden_size": 512, "model.mlp_size": 1024,
    "model.num_heads": 4, "model.num_kv_heads": 4, "model.head_dim": 128,
    "model.vocab_size": 2048, "data.sequence_length": 512, "batch_size": 8,
    "execution.loss_chunk": 128,
}  # fmt: skip

# Configuration, topology, and what is changed besides `SMALL`.
PLANS = {
    "llama_8b, fsdp": ("llama_8b", "v6e:2x4", {}),
    "llama_8b, fsdp and tensor": ("llama_8b", "v6e:2x4", {"mesh.tensor": 2}),
    "mixtral_8x7b, fsdp and experts": ("mixtral_8x7b", "v5p:2x2x2", {"mesh.expert": 2}),
}


def small_run(name: str, changes: dict):
    """Returns the configuration `configs/NAME.py` at a small size."""
    config = runpy.run_path(f"configs/{name}.py")["get_config"]("")
    config.update_from_flattened_dict(SMALL | changes)
    return parse_run(step.without_data(config))


def record(name: str, place: str, changes: dict) -> dict:
    """Returns a plan's loops, shardings and collectives as JSON holds them."""
    chips = topology.describe(place)
    options = search.options("overlap", chips.generation)
    found = step.compile_step(small_run(name, changes), chips.devices, options)
    axes, sizes = zip(*found.trainer.mesh.shape.items())
    counts, sent, alone = Counter(), Counter(), Counter()
    for each in found.program.collectives(axes, sizes):
        key = f"{each.kind} over {'*'.join(each.axes)}"
        counts[key] += each.times
        sent[key] += each.sent
        alone[key] += 0 if each.overlapped else each.sent
    places = jax.tree_util.tree_leaves_with_path(found.trainer.target.params)
    return {
        "loops": sorted(found.program.loops().values()),
        "collectives": dict(sorted(counts.items())),
        "bytes_sent": {key: round(size) for key, size in sorted(sent.items())},
        "bytes_alone": {key: round(size) for key, size in sorted(alone.items()) if size},
        "shardings": {jax.tree_util.keystr(path): str(leaf.sharding.spec) for path, leaf in places},
        "bytes": {key: found.bytes[key] for key in ("parameters", "optimizer", "gradients")},
    }


def main() -> None:
    """Writes `FILE`."""
    plans = {name: record(*case) for name, case in PLANS.items()}
    kept = {"libtpu": version("libtpu"), "jax": jax.__version__, "plans": plans}
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
