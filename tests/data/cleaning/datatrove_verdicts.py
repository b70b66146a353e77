"""Runs under the Python that has datatrove, started by `benchmark.py`; knows nothing of llm_jax.

Reads one line of JSON from stdin: {"documents": path of a JSON list of texts, "rule": {"token":
regex, "sentence": regex} in place of datatrove's own splitting, or null}. Then for each further
line ("sequence" or "alone") prints one line of JSON: {"seconds", "verdicts"}.
"""

import json
import re
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils import word_tokenizers


class RegexTokenizer:
    def __init__(self, token, sentence):
        self.word_tokenize = re.compile(token).findall
        self._sentence = re.compile(sentence)

    def span_tokenize(self, text):
        ends = [match.end() for match in self._sentence.finditer(text)] + [len(text)]
        return list(zip([0, *ends], ends))


def reason(result):
    return result[1] if isinstance(result, tuple) and not result[0] else None


def in_sequence(filters, text):
    document = Document(text=text, id="")
    return next((why for f in filters if (why := reason(f.filter(document))) is not None), None)


def each_alone(filters, text):
    return [reason(f.filter(Document(text=text, id=""))) for f in filters]


def main():
    settings = json.loads(sys.stdin.readline())
    with open(settings["documents"]) as file:
        documents = json.load(file)
    if settings["rule"]:
        tokenizer = RegexTokenizer(**settings["rule"])
        word_tokenizers.load_word_tokenizer = lambda language: tokenizer
    filters = [
        C4QualityFilter(),
        GopherQualityFilter(),
        GopherRepetitionFilter(),
        FineWebQualityFilter(char_duplicates_ratio=0.1),  # As in the paper, and in our table.
    ]
    for command in sys.stdin:
        judge = {"sequence": in_sequence, "alone": each_alone}[command.strip()]
        begin = time.process_time()
        verdicts = [judge(filters, text) for text in documents]
        seconds = time.process_time() - begin
        print(json.dumps({"seconds": seconds, "verdicts": verdicts}), flush=True)


if __name__ == "__main__":
    main()
