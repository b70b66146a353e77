"""Words or characters of a sentence, each made into pieces by itself, as they stand in text.

Vocabularies disagree where the space between two words goes: sentencepiece's mark "▁" and the "Ġ"
of byte-level BPE stand before a word, the sentencepiece models that are trained here write it
behind, and WordPiece leaves it out. Some put a mark before any text. In a word there must be none.
"""

from collections.abc import Sequence

from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer

_SPACE_MARKS = "▁Ġ"


def encode_units(tokenizer, sentences: Sequence[Sequence[str]], *, spaced: bool):
    """Returns the ids of each unit of each sentence, none where the tokenizer makes nothing of it.

    Args:
      tokenizer: of `llm_jax.data.load_tokenizer`.
      sentences: their units, strings without white space around.
      spaced: whether units are words, with spaces between, or nothing is between them.
    """
    ours = not isinstance(tokenizer, PretrainedTokenizer)
    marks = not ours and _marks_any_text(tokenizer)
    front, behind = ("", "") if not spaced or marks else ("", " ") if ours else (" ", "")
    given = [
        [front * (n > 0) + unit + behind * (n < len(units) - 1) for n, unit in enumerate(units)]
        for units in sentences
    ]
    known = list(dict.fromkeys(unit for units in given for unit in units))
    if marks and not spaced:
        pieces = {unit: _without_mark(tokenizer, unit) for unit in known}
    else:
        pieces = dict(zip(known, tokenizer.encode_documents(known)))
    return [[pieces[unit] for unit in units] for units in given]


def _marks_any_text(tokenizer: PretrainedTokenizer) -> bool:
    """Says whether a text has a space mark in front that it does not begin with."""
    first = tokenizer.encode("a", add_special_tokens=False)[:1]
    return any(tokenizer.pieces()[piece].startswith(b" ") for piece in first)


def _without_mark(tokenizer: PretrainedTokenizer, text: str) -> list[int]:
    """Returns the ids of `text` as it stands inside a word."""
    backend = tokenizer._backend
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    parts = [text]
    if backend.pre_tokenizer is not None:
        parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    if parts and parts[0][:1] in tuple(_SPACE_MARKS):
        parts[0] = parts[0][1:]
    return [piece.id for part in parts if part for piece in backend.model.tokenize(part)]
