"""Tokenizers side by side: what each makes of the same text, as numbers and as a page.

Fertility after Rust et al. 2021 (arXiv:2012.15613), section 3.1: tokens a word.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from llm_jax.data.cleaning import language
from llm_jax.data.tokenizers.bpe import Tokenizer
from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer

# Han and kana, written without spaces: a character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
# A language with a smaller share of the words is one of the others.
_MIN_SHARE = 0.01
OTHERS = "other"
_EXAMPLE_CHARACTERS = 120


class HeldOut:
    """Text that no tokenizer was trained on.

    Attributes:
      texts: its parts.
      bytes: of all of them, UTF-8.
      words: of each part.
      languages: of each part; "other" where a language has less than 1% of the words.
    """

    def __init__(self, texts: Sequence[str]):
        """Takes parts short enough to be in one language each."""
        self.texts = list(texts)
        self.bytes = sum(len(text.encode()) for text in self.texts)
        self.words = [len(_WORD.findall(text)) for text in self.texts]
        found = [language.identify(text)[0] for text in self.texts]
        counts = Counter()
        for code, words in zip(found, self.words):
            counts[code] += words
        known = {
            code
            for code, words in counts.items()
            if words >= _MIN_SHARE * counts.total() and code != language.UNDETERMINED
        }
        self.languages = [code if code in known else OTHERS for code in found]

    def words_by_language(self) -> dict[str, int]:
        """Returns the words of each language, the commonest first and the others last."""
        counts = Counter()
        for code, words in zip(self.languages, self.words):
            counts[code] += words
        order = sorted(counts, key=lambda code: (code == OTHERS, -counts[code], code))
        return {code: counts[code] for code in order if counts[code]}


def measure(
    tokenizer: Tokenizer | PretrainedTokenizer, sample: Sequence[str], held_out: HeldOut
) -> dict:
    """Returns what can be counted of a tokenizer.

    Args:
      tokenizer: of any kind.
      sample: texts that it was trained on.
      held_out: others.

    Returns:
      pieces; bytes_per_token and fertility (tokens a word, by language) on `held_out`, marks left
      out; unknown, the share of its tokens that stand for unknown words; unused, how many pieces of
      more than one byte never occur in `sample`; megabytes_per_second of encoding `sample`, on all
      processors.
    """
    size = sum(len(text.encode()) for text in sample)
    began = time.perf_counter()
    encoded = tokenizer.encode_documents(sample)
    seconds = time.perf_counter() - began
    seen = np.zeros(tokenizer.vocab_size, bool)
    for ids in encoded:
        seen[ids] = True
    learned = np.array([len(piece) > 1 for piece in _pieces(tokenizer)])
    unknown_id = tokenizer.symbols.get("[UNK]")
    if unknown_id is not None:
        learned[unknown_id] = False

    encoded = tokenizer.encode_documents(held_out.texts)
    tokens = Counter()
    for code, ids in zip(held_out.languages, encoded):
        tokens[code] += len(ids)
    unknown = sum(ids.count(unknown_id) for ids in encoded)
    words = held_out.words_by_language()
    return {
        "pieces": tokenizer.vocab_size,
        "bytes_per_token": held_out.bytes / max(1, tokens.total()),
        "fertility": {code: tokens[code] / count for code, count in words.items()},
        "unknown": unknown / max(1, tokens.total()),
        "unused": int((learned & ~seen).sum()),
        "megabytes_per_second": size / 1e6 / seconds,
    }


def report(results: Iterable[dict], tokenizers: dict, held_out: HeldOut) -> str:
    """Returns the page: a row for each tokenizer, and how each cuts the same lines.

    Args:
      results: `measure` of each, with its name, and the seconds that its training took.
      tokenizers: by name.
      held_out: what was measured.
    """
    words = held_out.words_by_language()
    head = [
        "tokenizer", "pieces", "bytes a token", *(f"tokens a word, {code}" for code in words),
        "unknown", "unused", "MB/s", "trained in",
    ]  # fmt: skip
    rows = [
        [
            each["name"],
            f"{each['pieces']:,}",
            f"{each['bytes_per_token']:.3f}",
            *(f"{each['fertility'][code]:.3f}" for code in words),
            f"{each['unknown']:.2%}",
            f"{each['unused']:,}",
            f"{each['megabytes_per_second']:.1f}",
            f"{each['training_seconds']:.1f} s",
        ]
        for each in results
    ]
    of = ", ".join(f"{code} {count:,}" for code, count in words.items())
    lines = [
        "# Tokenizers",
        "",
        f"Measured on {held_out.bytes:,} bytes of held-out text; words: {of}.",
        "Unused: pieces of more than one byte that never occur in the training sample; MB/s:",
        "encoding that sample on all processors.",
        "",
        *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)),
    ]
    for code in words:
        text = held_out.texts[held_out.languages.index(code)].strip()[:_EXAMPLE_CHARACTERS]
        lines += ["", f"## Cut, {code}", "", "```", text, "```", "", "```"]
        for name, tokenizer in tokenizers.items():
            pieces = [tokenizer.decode([i]) for i in tokenizer.encode_documents([text])[0]]
            lines.append(f"{name}: {'|'.join(pieces)}".replace("\n", "\\n").replace("```", "'''"))
        lines.append("```")
    return "\n".join(lines) + "\n"


def _pieces(tokenizer: Tokenizer | PretrainedTokenizer) -> list[bytes]:
    """Returns the bytes that each token stands for."""
    if isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer.pieces()
    return [tokenizer.token_bytes(piece_id) for piece_id in range(tokenizer.vocab_size)]
