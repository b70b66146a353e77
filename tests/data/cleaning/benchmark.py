"""Quality rules beside datatrove's filters, on the same documents, one process each, by turns.

    python -m tests.data.cleaning.benchmark --datatrove=/path/to/python [--rounds=2]

Documents: docstrings and modules of the standard library and `pydoc_data.topics`, about 10 MB.
datatrove's `C4QualityFilter`, `GopherQualityFilter`, `GopherRepetitionFilter` and
`FineWebQualityFilter` run twice: with our rule for words and sentences in place of its tokenizer
(what differs then is the filters), and as it comes (spaCy's English, if that Python has it).
"sequence" stops at the first filter that throws a document out; "alone" shows every document to
every filter. Prints seconds of processor time, their ratio and the share of equal verdicts.
"""

import argparse
import ast
import json
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

from llm_jax.data.cleaning import text_statistics
from llm_jax.data.cleaning.quality import LINE_RULES, RULES, check, keep_lines
from llm_jax.data.cleaning.text_statistics import Statistics

_NODES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BYTES = 10_000_000

GROUPS = {
    prefix: tuple(rule for rule in RULES.values() if rule.name.startswith(prefix))
    for prefix in ("c4_", "gopher_", "fineweb_")
}
_FIRST_REPETITION = [rule.name for rule in GROUPS["gopher_"]].index("gopher_duplicate_paragraphs")
FILTERS = {
    "C4QualityFilter": GROUPS["c4_"],
    "GopherQualityFilter": GROUPS["gopher_"][:_FIRST_REPETITION],
    "GopherRepetitionFilter": GROUPS["gopher_"][_FIRST_REPETITION:],
    "FineWebQualityFilter": GROUPS["fineweb_"],
}


def library_texts() -> tuple[list[str], list[str]]:
    """Returns the docstrings and the modules of the standard library, tests left out."""
    docstrings, modules = [], []
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"test", "tests", "idle_test", "site-packages", "encodings"} & set(parts):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        modules.append(text)
        nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, _NODES))
        docstrings += [found for node in nodes if (found := ast.get_docstring(node))]
    return docstrings, modules


def documents() -> list[str]:
    docstrings, modules = library_texts()
    texts = [*topics.values(), *docstrings, *modules]
    kept, size = [], 0
    for text in texts:
        size += len(text.encode("utf-8"))
        if size > _BYTES:
            break
        kept.append(text)
    return kept


def in_sequence(text: str) -> str | None:
    return check(keep_lines(text))


def each_alone(text: str) -> list[str | None]:
    statistics = Statistics(text)
    c4, *others = FILTERS.values()
    return [check(keep_lines(text), c4), *(check(statistics, rules) for rules in others)]


def ours(texts: list[str], command: str) -> tuple[float, list]:
    judge = {"sequence": in_sequence, "alone": each_alone}[command]
    begin = time.process_time()
    verdicts = [judge(text) for text in texts]
    return time.process_time() - begin, verdicts


class Reference:
    """datatrove in its own process."""

    def __init__(self, python: str, path: str, own_splitting: bool):
        script = Path(__file__).with_name("datatrove_verdicts.py")
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        rule = {
            "token": text_statistics.TOKEN.pattern,
            "sentence": text_statistics.SENTENCE_END.pattern,
        }
        self._tell(json.dumps({"documents": path, "rule": None if own_splitting else rule}))

    def _tell(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def run(self, command: str) -> tuple[float, list]:
        self._tell(command)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("datatrove's process ended: see its message above")
        answer = json.loads(line)
        return answer["seconds"], answer["verdicts"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def agreement(left: list, right: list) -> float:
    same = sum((a is None) == (b is None) for a, b in zip(left, right, strict=True))
    return 100 * same / len(left)


def compare(name: str, reference: Reference, texts: list[str], rounds: int) -> None:
    for command in ("sequence", "alone"):
        mine, theirs = [], []
        for _ in range(rounds):
            seconds, verdicts = ours(texts, command)
            mine.append(seconds)
            seconds, expected = reference.run(command)
            theirs.append(seconds)
        print(
            f"{name}, {command}: ours {_times(mine)} s, datatrove {_times(theirs)} s, "
            f"ratio of the best {min(theirs) / min(mine):.2f}"
        )
        if command == "sequence":
            kept = sum(verdict is None for verdict in verdicts)
            print(f"  equal verdicts {agreement(verdicts, expected):.2f}% (we keep {kept})")
            continue
        for index, filter_name in enumerate(FILTERS):
            left, right = ([row[index] for row in side] for side in (verdicts, expected))
            kept = sum(verdict is None for verdict in left)
            share = agreement(left, right)
            print(f"  {filter_name}: equal verdicts {share:.2f}% (we keep {kept})")


def _times(seconds: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datatrove", required=True, help="a Python with datatrove installed")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    texts = documents()
    size = sum(len(text.encode("utf-8")) for text in texts)
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {len(LINE_RULES) + len(RULES)} rules")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        for name, own in (("our words and sentences", False), ("spaCy's", True)):
            reference = Reference(arguments.datatrove, file.name, own)
            compare(name, reference, texts, arguments.rounds)
            reference.close()


if __name__ == "__main__":
    main()
