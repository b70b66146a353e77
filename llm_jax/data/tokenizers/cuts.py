"""Where a text may be cut so that its parts, encoded each alone, have the ids of the whole.

BPE joins two neighbours only into a piece of its vocabulary, so nothing is ever joined across two
characters that stand side by side in no piece. What is joined on one side of them then does not
depend on the other side, and of short texts the queue of candidates is short and stays in the
processor's cache. A unigram model is not cut: the sum of a long path is rounded, and of two ways to
cut a text it may take another one than in a short text.
Reference: Sennrich et al. 2016 (arXiv:1508.07909).
"""

# Characters of a part: shorter ones save sentencepiece no more than it takes to find the cuts.
_LENGTH = 512
# Where so many places in turn cannot be cut, as in a line of one character, the next are passed.
_TRIES = 64
_SPACE_MARK = "▁"


def inner_pairs(model: bytes) -> frozenset[str] | None:
    """Returns which two characters stand side by side in pieces of a serialized model.

    Spaces are spaces there. None where a text must stay whole: the model is no BPE, changes the
    text or its spaces, or has pieces that are cut out beforehand; or it has no bytes to write an
    unknown character with, so that several in turn are one unknown token.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    norm, kinds = proto.normalizer_spec, sentencepiece_model_pb2.ModelProto.SentencePiece
    if (
        proto.trainer_spec.model_type != proto.trainer_spec.BPE
        or not proto.trainer_spec.byte_fallback
        or norm.precompiled_charsmap
        or norm.add_dummy_prefix
        or norm.remove_extra_whitespaces
        or not norm.escape_whitespaces
        or any(piece.type == kinds.USER_DEFINED for piece in proto.pieces)
    ):
        return None
    texts = [
        piece.piece.replace(_SPACE_MARK, " ")
        for piece in proto.pieces
        if piece.type in (kinds.NORMAL, kinds.UNUSED)
    ]
    return frozenset(text[at : at + 2] for text in texts for at in range(len(text) - 1))


def cut(text: str, pairs: frozenset[str] | None) -> list[str]:
    """Returns `text` in parts of about 512 characters, cut between no two of `inner_pairs`."""
    if pairs is None:
        return [text]
    parts, start, at = [], 0, _LENGTH
    while at < len(text):
        for place in range(at, min(at + _TRIES, len(text))):
            if text[place - 1 : place + 1] not in pairs:
                parts.append(text[start:place])
                start = at = place
                break
        at += _LENGTH
    return [*parts, text[start:]]
