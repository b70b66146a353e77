"""What the pipeline threw away, and why: `report.md`, `report.html` and `funnel.png`."""

import html
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

from llm_jax.data.pipeline.filter import IDENTIFIED_ONE_IN

SAMPLES = 3
_COLOUR = "#5fa8d3"


def write(workdir: Path, manifest: dict, samples: dict[str, list[str]]) -> None:
    """Writes the three files into `workdir`.

    Args:
      workdir: of the run.
      manifest: of `cleaned/`.
      samples: beginnings of documents that each rule removed.
    """
    _draw(manifest, workdir / "funnel.png")
    sections = _sections(manifest, samples)
    (workdir / "report.md").write_text(_markdown(sections), encoding="utf-8")
    (workdir / "report.html").write_text(_html(sections), encoding="utf-8")


def _sections(manifest: dict, samples) -> list[tuple[str, list]]:
    """Returns (title, rows or paragraphs)."""
    come, left = manifest["documents_in"], manifest["documents_out"]
    rows = [("", "documents", "share"), ("read", come, "100%")]
    for rule, count in manifest["removed"].items():
        rows.append((rule, -count, f"{count / max(come, 1):.2%}"))
    rows.append(("kept", left, f"{left / max(come, 1):.2%}"))
    sizes = f"{manifest['bytes_in']:,} bytes read, {manifest['bytes_out']:,} kept."
    bad = f"{manifest['bad_records']} records could not be read: see bad.jsonl."
    sections = [("Funnel", [sizes, bad, rows])]
    if manifest["personal"]:
        found = [("personal data", "found"), *manifest["personal"].items()]
        sections.append(("Personal data", [found]))
    if manifest["languages"]:
        spoken = [("language", "documents"), *manifest["languages"].items()]
        sections.append((_languages(manifest).capitalize(), [spoken]))
    lengths = sorted((int(bits), count) for bits, count in manifest["lengths"].items())
    table = [(f"below {2**bits:,}", count) for bits, count in lengths]
    sections.append(("Lengths, after filters", [[("characters", "documents"), *table]]))
    for rule, texts in sorted(samples.items()):
        sections.append((f"Removed by {rule}", [f"> {text}" for text in texts[:SAMPLES]]))
    return sections


def _markdown(sections) -> str:
    lines = ["# What was cleaned", "", "![what was left](funnel.png)", ""]
    for title, parts in sections:
        lines += [f"## {title}", ""]
        for part in parts:
            if isinstance(part, list):
                lines += [f"| {' | '.join(map(str, row))} |" for row in part[:1]]
                lines += ["|" + "---|" * len(part[0])]
                lines += [f"| {' | '.join(map(str, row))} |" for row in part[1:]]
            else:
                lines += [part.replace("\n", "\n> ") if part.startswith("> ") else part]
            lines.append("")
    return "\n".join(lines)


def _html(sections) -> str:
    body = []
    for title, parts in sections:
        body.append(f"<h2>{html.escape(title)}</h2>")
        for part in parts:
            if isinstance(part, list):
                rows = (
                    "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
                    for row in part
                )
                body.append(f"<table>{''.join(rows)}</table>")
            elif part.startswith("> "):
                body.append(f"<pre>{html.escape(part[2:])}</pre>")
            else:
                body.append(f"<p>{html.escape(part)}</p>")
    style = "body{font:15px sans-serif;max-width:50em;margin:2em auto}td{padding:.1em 1em}"
    pre = "pre{white-space:pre-wrap;background:#f4f4f4;padding:.6em}"
    head = f"<meta charset=utf-8><title>What was cleaned</title><style>{style}{pre}</style>"
    picture = '<img src="funnel.png" alt="what was left" width=1000>'
    return f"<!doctype html>{head}<h1>What was cleaned</h1>{picture}{''.join(body)}\n"


def _draw(manifest: dict, path: Path) -> None:
    """Draws what was left behind each rule, from the first to the last, lengths and languages."""
    names, left = ["read"], [manifest["documents_in"]]
    for rule, count in manifest["removed"].items():
        names.append(rule)
        left.append(left[-1] - count)
    lengths = sorted((int(bits), count) for bits, count in manifest["lengths"].items())
    spoken = sorted(manifest["languages"].items(), key=lambda item: -item[1])[:12]
    height = 0.8 + 0.3 * max(len(names), len(spoken), 6)
    figure, (funnel, middle, right) = plt.subplots(
        1, 3, figsize=(13, height), width_ratios=(3, 2, 2), layout="constrained"
    )
    _bars(funnel, names, left, "documents left")
    middle.bar([bits for bits, _ in lengths], [count for _, count in lengths], color=_COLOUR)
    middle.set_xticks(range(0, 1 + max((bits for bits, _ in lengths), default=0), 4))
    size = EngFormatter(places=0, sep="")
    middle.xaxis.set_major_formatter(lambda bits, _: size(2 ** round(bits)))
    middle.set(xlabel="characters, below", ylabel="documents")
    middle.spines[["top", "right"]].set_visible(False)
    _bars(right, [code for code, _ in spoken], [count for _, count in spoken], _languages(manifest))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _languages(manifest: dict) -> str:
    """Returns of which documents the languages are told."""
    asked = manifest["config"]["filter"]["languages"]
    return "documents by language" + ("" if asked else f", one in {IDENTIFIED_ONE_IN}")


def _bars(axes, names: list[str], counts: list[int], label: str) -> None:
    bars = axes.barh(names, counts, color=_COLOUR)
    axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max([*counts, 1]))
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
