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
from llm_jax.training import profile
from llm_jax.training.goodput import goodput
from llm_jax.training.hardware import has_units
from llm_jax.training.metrics import read_metrics
from llm_jax.training.precision import policy
from llm_jax.training.progress import count
from llm_jax.training.run import RunConfig
from llm_jax.training.tuning import rated

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of the ledger's kinds, in their order.
_COLORS = ("#4c956c", "#8d99ae", "#b8a1d9", "#e9c46a", "#5fa8d3", "#2f5d8a", "#c0392b")


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
    example = work(run.objective, model, usual_length(run, manifest))
    length, flops = example.tokens, example.flops
    rows = run.batch_size // run.accumulation
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        kernels = model.kernels(rows, length)
    quantization = policy(run.precision).quantization
    if quantization is not None:
        how = "" if has_units(quantization) else ", emulated: this device has no units for it"
        kernels["projections"] = quantization + how
    stages = mesh.shape["pipe"]
    if stages > 1:
        parts = run.execution.microbatches or stages
        rounds = run.execution.pipeline_rounds
        empty = f"{empty_share(stages, parts, rounds):.0%} of the time empty"
        turns = f" in {rounds} rounds" if rounds > 1 else ""
        kernels["pipeline"] = f"{stages} stages, {parts} microbatches{turns}, {empty}"
    return {
        "devices": f"{device.platform}, {device.device_kind}; jax {jax.__version__}",
        "mesh": describe(mesh),
        "model": f"{run.model.family}, {count(model.num_params)} parameters",
        "FLOPs a token": f"{count(flops.total)} = {flops.formula}",
        "objective": run.objective.name,
        "batch": f"{run.batch_size} rows of {length} tokens, {run.accumulation} microbatch(es)",
        "precision": f"{run.precision}; matmul peak measured {count(peak)}FLOP/s, for MFU",
        "kernels": ", ".join(f"{name}: {chosen}" for name, chosen in kernels.items()),
        "optimizer": f"{run.optim.name}, {run.optim.schedule} from {rated(run).learning_rate:g}",
        "data": _described(manifest) + _mixed(run, manifest),
    }


def usual_length(run: RunConfig, manifest: Manifest) -> int:
    """Returns the tokens of a usual example: the mean where each is as long as it is."""
    if manifest.labels:
        return round(manifest.tokens["train"] / manifest.rows["train"])
    return run.data.sequence_length


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


def _mixed(run: RunConfig, manifest: Manifest) -> str:
    """Returns the shares of a mixture's parts at the first and the last step."""
    if run.data.mixing is None:
        return ""
    shares = [run.data.mixing.shares(manifest.parts, step) for step in (0, run.steps)]
    told = [
        f"{name} {first:.1%}" + (f" to {last:.1%}" if last != first else "")
        for name, first, last in zip(manifest.parts, *shares)
    ]
    return f"; rows of {', '.join(told)}"


def write_report(
    workdir: str,
    run_header: dict[str, str],
    result: dict,
    samples: list[tuple[str, str]],
    *,
    seconds: dict[str, float],
    rollbacks: list[dict],
) -> None:
    """Writes `report.md`, `loss.png` and `goodput.png`, in process 0.

    Args:
      workdir: the run's directory, with its `metrics.csv` and perhaps a profile.
      run_header: of `header`.
      result: the run's final numbers by name.
      samples: pairs of prompt and continuation.
      seconds: by what they were spent on, of a `Ledger`.
      rollbacks: of a `Guard`.
    """
    if jax.process_index() != 0:
        return
    draw_loss(workdir)
    draw_goodput(workdir, seconds)
    lines = ["# Training report", "", "![loss](loss.png)", "", "## Result", ""]
    lines += ["| what | value |", "|---|---|"]
    lines += [f"| {name} | {_figure(value)} |" for name, value in result.items()]
    lines += ["", "## Run", "", "| what | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in run_header.items()]
    lines += [*_goodput(seconds), *_rollbacks(rollbacks), *_profile(workdir)]
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


def draw_goodput(workdir: str, seconds: dict[str, float]) -> None:
    """Draws one bar of what the time was spent on into `goodput.png`."""
    total, left = max(sum(seconds.values()), 1e-9), 0.0
    figure, axes = plt.subplots(figsize=(7.5, 1.9), layout="constrained")
    for (kind, spent), color in zip(seconds.items(), _COLORS, strict=True):
        share = 100 * spent / total
        axes.barh(0, share, left=left, color=color, label=f"{kind} {share:.1f}%")
        left += share
    axes.set(xlim=(0, 100), xlabel=f"% of {total:,.0f} s", yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(Path(workdir) / "goodput.png", dpi=120)
    plt.close(figure)


def _goodput(seconds: dict[str, float]) -> list[str]:
    total = max(sum(seconds.values()), 1e-9)
    return [
        "", "## Goodput", "",
        f"{goodput(seconds):.1%} of the time that processes worked at the run was productive.",
        "", "![goodput](goodput.png)", "", "| time | seconds | share |", "|---|---|---|",
        *(f"| {kind} | {spent:,.2f} | {spent / total:.2%} |" for kind, spent in seconds.items()),
        f"| all | {total:,.2f} | 100% |",
    ]  # fmt: skip


def _rollbacks(rollbacks: list[dict]) -> list[str]:
    if not rollbacks:
        return []
    lines = ["", "## Loss spikes", "", "| step | what | back to step | batches left out |"]
    lines.append("|---|---|---|---|")
    for each in rollbacks:
        first, last = each["left_out"]
        lines.append(
            f"| {each['step']} | {each['reason']} | {each['back_to']} | {first} to {last} |"
        )
    return lines


def _profile(workdir: str) -> list[str]:
    """Returns what the profile says, nothing where there is none."""
    found = profile.operations(workdir)
    if not found:
        return []
    return [
        "", "## Profile", "",
        f"The ten costliest of {len(found)} operations; {profile.collective_share(found):.1%} of "
        "the devices' time went to collectives.",
        "", "| operation | share | count |", "|---|---|---|",
        *(f"| `{each.name}` | {each.share:.1%} | {each.count} |" for each in found[:10]),
    ]  # fmt: skip


def _figure(value) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else str(value)
