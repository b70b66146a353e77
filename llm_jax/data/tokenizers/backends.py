"""Tokenizers of the library `tokenizers`, built from what older files hold."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from llm_jax.configuration import ConfigError


def word_piece(words: Sequence[str], *, lowercase: bool) -> Backend:
    """Returns BERT's tokenizer over `words`, line n of a vocab.txt being id n.

    Reference: Devlin et al. 2018 (arXiv:1810.04805).
    """
    vocab = {word: number for number, word in enumerate(words)}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    marks = [mark for mark in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if mark in vocab]
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, vocab[mark]) for mark in ("[CLS]", "[SEP]")],
    )
    return backend


def byte_level(
    vocab: dict[str, int], merges: list[tuple[str, str]], *, single_digits: bool = False
) -> Backend:
    """Returns GPT-2's byte-level BPE; `single_digits` cuts numbers into digits first.

    Reference: Radford et al. 2019.
    """
    backend = Backend(models.BPE(vocab, merges, fuse_unk=False))
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if single_digits:
        pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre])
    backend.pre_tokenizer = pre
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def sentencepiece_unigram(path: Path, settings: dict) -> Backend:
    """Returns a sentencepiece unigram model's tokenizer, T5's way: the end mark behind the text."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    size = processor.vocab_size()
    kind = settings.get("tokenizer_class", "").removesuffix("Fast")
    if kind not in ("T5Tokenizer", ""):
        raise ConfigError(f"{path}: a {kind} is read from tokenizer.json only: add that file")
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(size)]
    backend = Backend(models.Unigram(pieces, processor.unk_id(), byte_fallback=False))
    proto = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    backend.normalizer = normalizers.Sequence([
        *([normalizers.Precompiled(charsmap)] if charsmap else []),
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), "▁"),
    ])  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    extra = settings.get("extra_ids", 100)
    backend.add_special_tokens(
        [processor.id_to_piece(i) for i in range(size) if processor.is_control(i)]
        + [f"<extra_id_{number}>" for number in reversed(range(extra))]
    )
    eos = processor.id_to_piece(processor.eos_id())
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, processor.eos_id())]
    )
    return backend
