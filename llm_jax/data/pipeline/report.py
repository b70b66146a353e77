"""What the pipeline threw away, and why: `report.md`, `report.html` and `funnel.png`."""

import html
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SAMPLES = 3


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
        sections.append(
            ("Languages", [[("language", "documents"), *manifest["languages"].items()]])
        )
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
    picture = '<img src="funnel.png" alt="what was left" width=700>'
    return f"<!doctype html>{head}<h1>What was cleaned</h1>{picture}{''.join(body)}\n"


def _draw(manifest: dict, path: Path) -> None:
    """Draws how many documents were left behind each rule, from the first to the last."""
    names, left = ["read"], [manifest["documents_in"]]
    for rule, count in manifest["removed"].items():
        names.append(rule)
        left.append(left[-1] - count)
    figure, axes = plt.subplots(figsize=(7.5, 0.8 + 0.3 * len(names)), layout="constrained")
    bars = axes.barh(names, left, color="#5fa8d3")
    axes.bar_label(bars, [f"{count:,}" for count in left], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(left[0], 1))
    axes.set_xlabel("documents left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
