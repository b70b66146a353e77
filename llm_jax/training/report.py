"""The run's own account: what it prints at its start, and `report.md` at its end."""

import json
from pathlib import Path

import jax
import matplotlib
from jax.sharding import Mesh

from llm_jax.data import Manifest
from llm_jax.losses.registry import work
from llm_jax.models import Model
from llm_jax.parallel.mesh import describe
from llm_jax.parallel.pipeline import empty_share
from llm_jax.training.metrics import read_metrics
from llm_jax.training.progress import count
from llm_jax.training.run import RunConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def header(
    run: RunConfig, model: Model, mesh: Mesh, manifest: Manifest, peak: float
) -> dict[str, str]:
    """Returns what a reader should know of a run before it starts, by name.

    Args:
      run: its configuration.
      model: its model.
      mesh: its devices.
      manifest: of its data.
      peak: measured matmul rate of the mesh in FLOP/s.
    """
    device = jax.devices()[0]
    example = work(run.objective, model, run.data.sequence_length)
    length, flops = example.tokens, example.flops
    rows = run.batch_size // run.accumulation
    kernels = model.kernels(rows, length, mesh.size, mesh.shape["seq"])
    stages = mesh.shape["pipe"]
    if stages > 1:
        parts = run.execution.microbatches or stages
        empty = f"{empty_share(stages, parts):.0%} of the time empty"
        kernels["pipeline"] = f"{stages} stages, {parts} microbatches, {empty}"
    return {
        "devices": f"{device.platform}, {device.device_kind}; jax {jax.__version__}",
        "mesh": describe(mesh),
        "model": f"{run.model.family}, {count(model.num_params)} parameters",
        "FLOPs a token": f"{count(flops.total)} = {flops.formula}",
        "objective": run.objective.name,
        "batch": f"{run.batch_size} rows of {length} tokens, {run.accumulation} microbatch(es)",
        "precision": f"{run.precision}; matmul peak measured {count(peak)}FLOP/s, for MFU",
        "kernels": ", ".join(f"{name}: {chosen}" for name, chosen in kernels.items()),
        "optimizer": f"{run.optim.name}, {run.optim.schedule}",
        "data": _described(manifest),
    }


def _described(manifest: Manifest) -> str:
    """Returns a line about the data."""
    unit = "images" if manifest.images else "documents"
    sizes = [f"{manifest.documents['train']} {unit}", f"{count(manifest.bytes['train'])}B"]
    if manifest.images:
        sizes.append(f"{manifest.images['classes']} classes")
    else:
        tokens = count(manifest.tokens["train"])
        sizes.append(f"{tokens} tokens of {manifest.vocab_size} pieces")
    held_out = f"{manifest.documents['validation']} {unit}, {count(manifest.bytes['validation'])}B"
    digests = manifest.tokens_sha256 or {"train": manifest.inputs["content_sha256"]}
    return (
        f"{manifest.source}: {', '.join(sizes)}; held out {held_out}; "
        f"sha256 {digests['train'][:12]}"
    )


def write_report(
    workdir: str, run_header: dict[str, str], result: dict, samples: list[tuple[str, str]]
) -> None:
    """Writes `report.md` and `loss.png`.

    Args:
      workdir: the run's directory, with its `metrics.csv`.
      run_header: of `header`.
      result: the run's final numbers by name.
      samples: pairs of prompt and continuation.
    """
    draw_loss(workdir)
    lines = ["# Training report", "", "![loss](loss.png)", "", "## Result", ""]
    lines += ["| what | value |", "|---|---|"]
    lines += [f"| {name} | {_figure(value)} |" for name, value in result.items()]
    lines += ["", "## Run", "", "| what | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in run_header.items()]
    if samples:
        lines += ["", "## Samples", ""]
    for prompt, text in samples:
        lines += [f"From `{json.dumps(prompt)}`:", "", "````", f"{prompt}{text}", "````", ""]
    lines += ["", "Every number of the run is in `metrics.csv`, its keys in `config.json`."]
    Path(workdir, "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_loss(workdir: str) -> None:
    """Draws training and validation loss over steps from `metrics.csv` into `loss.png`."""
    rows = read_metrics(workdir)
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    styles = {"train": {"color": "#9db8d9", "linewidth": 1.2}, "validation": {"color": "#c0392b"}}
    for split, style in styles.items():
        points = [(int(row["step"]), float(row["loss"])) for row in rows if row["split"] == split]
        if not points:
            continue
        marker = "o" if split == "validation" else None
        axes.plot(*zip(*points), label=split, marker=marker, markersize=4, **style)
        axes.annotate(
            f"{points[-1][1]:.3f}",
            points[-1],
            xytext=(6, 0 if split == "train" else 8),
            textcoords="offset points",
            color=style["color"],
            fontsize=9,
        )
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(Path(workdir) / "loss.png", dpi=120)
    plt.close(figure)


def _figure(value) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else str(value)
