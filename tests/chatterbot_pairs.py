"""Writes chatterbot-corpus as pairs: `python -m tests.chatterbot_pairs FOLDER`.

`make assets` calls it. Of a conversation each line is a question and the next one its answer.
"""

import itertools
import json
import sys
from pathlib import Path

import yaml


def main(folder: str) -> None:
    """Writes `english.jsonl` beside the data of the unpacked wheel in `folder`."""
    lines = []
    for path in sorted(Path(folder, "data", "english").glob("*.yml")):
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            turns = [" ".join(str(turn).split()) for turn in turns]
            for source, target in itertools.pairwise(turns):
                if source and target:
                    lines.append(json.dumps({"source": source, "target": target}))
    Path(folder, "english.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
