r"""Measures time and memory of each attention for a range of lengths, and draws them.

  python -m experiments.benchmark_attention --lengths=512,2048,8192,32768 --markdown \
      --picture=docs/images/attention.png

One row of a decoder's attention, 8 heads of 64, float32, forward alone and with the backward pass.
Memory is what the compiled program holds beside its inputs (`memory_analysis()`); a program that
wants more than --memory_gib is not run, and the row says how much it wanted.

The last line of stdout is one JSON object: `rows`, each with attention, length, backward, mib,
compile_seconds, and seconds (the best call of three, or of as many as fit into ten seconds) or
left_out, the reason why not; and `load`, the machine's load over the last five minutes.
"""

import functools
import os
import sys
import time

import jax
import jax.numpy as jnp
from absl import flags
from matplotlib.figure import Figure

from experiments import entry
from llm_jax.configuration import ConfigError
from llm_jax.kernels.attention import Mask, Scores, attention
from llm_jax.kernels.pattern import Pattern

LENGTHS = flags.DEFINE_list("lengths", ["512", "2048", "8192", "32768"], "Tokens of the row.")
HEADS = flags.DEFINE_integer("heads", 8, "Heads, of 64 each.")
WINDOW = flags.DEFINE_integer("window", 512, "Tokens that the sliding window sees.")
MEMORY = flags.DEFINE_float("memory_gib", 8.0, "Most memory of a program that is run.")
PICTURE = flags.DEFINE_string("picture", "", "Where to draw the figures, a .png.")
MARKDOWN = flags.DEFINE_bool("markdown", False, "Whether to print a table to stderr.")
# Name: (implementation, whether a window, the rest of the mask, scores).
CASES = {
    "plain": ("plain", False, {}, Scores()),
    "xla": ("xla", False, {}, Scores()),
    "chunked": ("chunked", False, {}, Scores()),
    "chunked, ALiBi": ("chunked", False, {}, Scores(alibi=True)),
    "chunked, window": ("chunked", True, {}, Scores()),
    "block sparse": ("chunked", False, {"pattern": Pattern("block_sparse")}, Scores()),
    "linear": ("auto", False, {"pattern": Pattern("linear")}, Scores()),
}


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    if not all(length.isdigit() and int(length) > 0 for length in LENGTHS.value):
        raise ConfigError(f"--lengths={','.join(LENGTHS.value)}: give whole numbers above 0")
    rows = []
    for name in CASES:
        for length in map(int, LENGTHS.value):
            for backward in (False, True):
                row = {"attention": name, "length": length, "backward": backward}
                row |= measure(name, length, backward)
                rows.append(row)
                print(" ".join(f"{k}={v}" for k, v in row.items()), file=sys.stderr)
    if MARKDOWN.value:
        print(markdown(rows), file=sys.stderr)
    if PICTURE.value:
        draw(rows)
    return {"rows": rows, "load": os.getloadavg()[1], "window": WINDOW.value, "heads": HEADS.value}


def measure(name: str, length: int, backward: bool) -> dict:
    """Returns the figures of one program, see above."""
    implementation, near, mask, scores = CASES[name]
    mask = Mask(window=jnp.int32(WINDOW.value) if near else None, **mask)
    run = functools.partial(attention, mask=mask, scores=scores, implementation=implementation)
    if backward:
        function = jax.grad(lambda *x: jnp.sum(run(*x) ** 2), argnums=(0, 1, 2))
    else:
        function = run
    shape = (1, length, HEADS.value, 64)
    inputs = [jax.random.normal(jax.random.key(i), shape) for i in range(3)]
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*inputs).compile()
    compile_seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    held = memory.temp_size_in_bytes + memory.output_size_in_bytes
    row = {"mib": held / 2**20, "compile_seconds": compile_seconds}
    if held > MEMORY.value * 2**30:
        return row | {"left_out": f"wants {held / 2**30:.0f} GiB"}
    seconds = []
    while len(seconds) < 3 and sum(seconds) < 10:
        began = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        seconds.append(time.perf_counter() - began)
    return row | {"seconds": min(seconds)}


def markdown(rows) -> str:
    """Returns the figures as a table: seconds and MiB, forward / forward and backward."""
    lengths = sorted({row["length"] for row in rows})
    lines = ["| attention | " + " | ".join(f"{n:,}" for n in lengths) + " |"]
    lines.append("|---" * (len(lengths) + 1) + "|")
    for name in CASES:
        cells = []
        for length in lengths:
            both = [r for r in rows if r["attention"] == name and r["length"] == length]
            shown = [f"{r['seconds']:.3g}" if "seconds" in r else "not run" for r in both]
            sizes = [f"{r['mib']:,.0f}" for r in both]
            cells.append(f"{' / '.join(shown)} s, {' / '.join(sizes)} MiB")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows) -> None:
    """Draws seconds and MiB of forward and backward over the length."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, key, label in zip(figure.subplots(1, 2), ("seconds", "mib"), ("seconds", "MiB")):
        for name in CASES:
            kept = [r for r in rows if r["attention"] == name and r["backward"] and key in r]
            axes.loglog([r["length"] for r in kept], [r[key] for r in kept], "o-", label=name)
        axes.set(xlabel="tokens", ylabel=label, title=f"forward and backward: {label}")
        axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(PICTURE.value, dpi=120)


if __name__ == "__main__":
    entry.launch(main)
