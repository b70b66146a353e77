"""Our sentencepiece models as `transformers` reads them: the same pieces in a tokenizer.json."""

import os
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as Backend

from llm_jax.data.tokenizers.pretrained import PretrainedTokenizer

_SPACE_MARK = "▁"
_NEVER = -1e4


def for_transformers(path: str | os.PathLike) -> PretrainedTokenizer:
    """Returns the tokenizer of a `tokenizer.model` that `training` wrote, to `save` elsewhere.

    A BPE model gives the same ids for every text without U+2581, which becomes a space. A unigram
    model gives ids of the same probability: where two ways to cut a text have the same, it may take
    the other one. Special tokens that stand in a text count as such. The beginning mark comes in
    front, as `encode_prompt` puts it, and padding is the unknown piece.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(Path(path).read_bytes())
    types = sentencepiece_model_pb2.ModelProto.SentencePiece
    special = [p.piece for p in proto.pieces if p.type in (types.CONTROL, types.UNKNOWN)]
    unknown, begin, end = (
        proto.pieces[i].piece
        for i in (
            proto.trainer_spec.unk_id,
            proto.trainer_spec.bos_id,
            proto.trainer_spec.eos_id,
        )
    )
    if proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        # There, what spells out "<0x41>" is as good as any piece.
        pieces = [(p.piece, p.score if p.type == types.NORMAL else _NEVER) for p in proto.pieces]
        model = models.Unigram(pieces, proto.trainer_spec.unk_id, True)
    else:
        vocab = {p.piece: number for number, p in enumerate(proto.pieces)}
        learned = [p for p in proto.pieces if p.type == types.NORMAL]
        merges = _merges({p.piece: p.score for p in learned}, vocab)
        model = models.BPE(vocab, merges, byte_fallback=True, unk_token=unknown)
    backend = Backend(model)
    backend.normalizer = normalizers.Replace(" ", _SPACE_MARK)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(piece, special=True) for piece in special])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B:1",
        special_tokens=[(begin, proto.trainer_spec.bos_id)],
    )
    roles = {"bos": begin, "eos": end, "unk": unknown, "pad": unknown}
    return PretrainedTokenizer(backend, roles | ({"mask": "<mask>"} if "<mask>" in special else {}))


def _merges(scores: dict[str, float], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Returns the pairs that make up the pieces, in the order in which sentencepiece joins them.

    It joins the pair that gives the piece of the highest score, whatever the pair.
    """
    pairs = []
    for piece, score in scores.items():
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        known = [(a, b) for a, b in halves if a in scores and b in scores]
        pairs += [(-score, vocab[a], vocab[b], a, b) for a, b in known]
    return [(a, b) for *_, a, b in sorted(pairs)]
