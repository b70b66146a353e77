"""A section of a run's report, and the table of what the run cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def put_section(directory: Path, title: str, lines: Sequence[str]) -> None:
    """Writes `# TITLE` and the lines behind what `report.md` in `directory` says.

    A section that has this title, and what stands behind it, is replaced: the same call twice
    writes the same file.
    """
    path = directory / "report.md"
    before = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    if f"# {title}" in before:
        before = before[: before.index(f"# {title}")]
    text = "\n".join(before).rstrip("\n")
    text = (f"{text}\n\n" if text else "") + "\n".join([f"# {title}", "", *lines]) + "\n"
    path.write_text(text, encoding="utf-8")


def costs_table(costs: Mapping) -> list[str]:
    """Returns the lines of a table; none where there are no costs.

    `trained_parameters` and `total_parameters` are shown as one with their share, names that end in
    `bytes` in MiB, None as "-".
    """
    if not costs:
        return []
    lines = ["", "## Costs", "", "| what | value |", "|---|---:|"]
    left = dict(costs)
    trained, total = left.get("trained_parameters"), left.get("total_parameters")
    if trained is not None and total:
        for key in ("trained_parameters", "total_parameters", "share"):
            left.pop(key, None)
        lines.append(f"| trained parameters | {trained:,} of {total:,} ({trained / total:.3%}) |")
    for name, value in left.items():
        if value is not None and name.endswith("bytes"):
            name, value = f"{name.removesuffix('_bytes')} memory", f"{value / 2**20:,.1f} MiB"
        elif isinstance(value, float):
            value = f"{value:,.4g}" if abs(value) < 100 else f"{value:,.1f}"
        elif isinstance(value, int):
            value = f"{value:,}"
        lines.append(f"| {name.replace('_', ' ')} | {'-' if value is None else value} |")
    return lines
