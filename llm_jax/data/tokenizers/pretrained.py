"""Tokenizers that come with a checkpoint, behind the interface of our own.

`load_pretrained_tokenizer(folder)` reads, in this order, `tokenizer.json`, `vocab.txt` (WordPiece),
`vocab.json` with `merges.txt` (byte-level BPE) or a sentencepiece `.model`; the library
`tokenizers` does the work. The chat template is rendered in Jinja's sandbox.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from llm_jax.configuration import ConfigError

ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")


class PretrainedTokenizer:
    """Text to ids and back, as the checkpoint's own tokenizer does it.

    Attributes:
      vocab_size: ids are below it; added tokens count.
      special: text of the special tokens by role, e.g. `{"eos": "</s>"}`.
      bos_id, eos_id, pad_id: their ids, None where there is none.
      chat_template: Jinja source, or None.
    """

    def __init__(self, backend: Backend, special: dict[str, str], chat_template: str | None = None):
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.special = special
        self.chat_template = chat_template
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id, self.eos_id, self.pad_id = (self._id(role) for role in ("bos", "eos", "pad"))

    def _id(self, role: str) -> int | None:
        text = self.special.get(role)
        return None if text is None else self._backend.token_to_id(text)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the ids of `text`; special tokens that stand in it count as such."""
        return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the ids of a text to continue: with the marks in front of it, none behind it.

        An empty text without a mark would be no prompt: it becomes the beginning or end mark.
        """
        ids = self.encode(text)
        plain = self.encode(text, add_special_tokens=False)
        ends = [token for token in (self.bos_id, self.eos_id) if token is not None]
        return ids[: len(ids) - self._marks_behind(ids, plain)] or ends[:1]

    @staticmethod
    def _marks_behind(ids: list[int], plain: list[int]) -> int:
        """Returns how many of `ids` stand behind the text's own ids `plain`."""
        for start in range(len(ids) - len(plain) + 1):
            if ids[start : start + len(plain)] == plain:
                return len(ids) - len(plain) - start if plain else 0
        return 0

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
        self._backend.save(str(Path(folder, "tokenizer.json")))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {
            f"{role}_token": text for role, text in self.special.items()
        }
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        Path(folder, "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def encode_all(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Returns `encode` of each text, worked on in parallel."""
        encoded = self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [one.ids for one in encoded]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of `ids`.

        Raises:
          ConfigError: an id that the vocabulary has not.
        """
        ids = list(ids)
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ConfigError(f"token id {token} is not in [0, {self.vocab_size})")
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def stream(self) -> "TextDecoder":
        """Returns a decoder that takes one token at a time."""
        return TextDecoder(self)

    def render_chat(
        self, messages: Sequence[dict], *, add_generation_prompt: bool = True, **variables
    ) -> str:
        """Returns the text of a conversation by the chat template, to be encoded without marks.

        Args:
          messages: `{"role": ..., "content": ...}` each.
          add_generation_prompt: end with the beginning of the assistant's turn.
          **variables: further names that the template may read.

        Raises:
          ConfigError: there is no template, or it fails, or it reaches outside its sandbox.
        """
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.chat_template is None:
            raise ConfigError("this tokenizer has no chat template: encode the text as it is")

        def raise_exception(message):
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = raise_exception
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(
            value, ensure_ascii=False, indent=indent
        )
        names = {f"{role}_token": text for role, text in self.special.items()}
        try:
            return environment.from_string(self.chat_template).render(
                messages=messages, add_generation_prompt=add_generation_prompt, **names | variables
            )
        except (jinja2.TemplateError, TypeError, AttributeError) as error:
            raise ConfigError(f"the chat template fails: {error}") from error


class TextDecoder:
    """Text as tokens arrive: only whole characters come out."""

    def __init__(self, tokenizer: PretrainedTokenizer):
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._written = 0

    def push(self, token: int) -> str:
        """Takes one token id; returns the characters that it completes, possibly none."""
        self._ids.append(int(token))
        text = self._stream.step(self._tokenizer._backend, int(token)) or ""
        self._written += len(text)
        return text

    def flush(self) -> str:
        """Ends the text: returns what was held back."""
        return self._tokenizer.decode(self._ids)[self._written :]


def load_pretrained_tokenizer(path: str | os.PathLike) -> PretrainedTokenizer:
    """Reads the tokenizer of a checkpoint's folder.

    Raises:
      ConfigError: no tokenizer there, a damaged one, or a kind that is not known.
    """
    folder = Path(path)
    settings = _json(folder / "tokenizer_config.json") or {}
    special = _special(folder, settings)
    template = settings.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    try:
        backend = _backend(folder, settings, special)
    except ConfigError:
        raise
    except Exception as error:  # the library's own errors have no common class
        raise ConfigError(f"the tokenizer in {folder} is damaged: {error}") from error
    return PretrainedTokenizer(backend, special, template)


def _backend(folder: Path, settings: dict, special: dict[str, str]) -> Backend:
    if (folder / "tokenizer.json").is_file():
        return Backend.from_file(str(folder / "tokenizer.json"))
    if (folder / "vocab.txt").is_file():
        return word_piece(
            (folder / "vocab.txt").read_text(encoding="utf-8").splitlines(),
            lowercase=settings.get("do_lower_case", True),
        )
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split(" ")) for line in merges if line and not line.startswith("#v")]
        backend = byte_level(_json(folder / "vocab.json"), pairs)
        if "cls" in special and "sep" in special:
            ends = [(special[name], backend.token_to_id(special[name])) for name in ("sep", "cls")]
            backend.post_processor = processors.RobertaProcessing(
                *ends, trim_offsets=True, add_prefix_space=False
            )
        backend.add_special_tokens(sorted(set(special.values())))
        return backend
    models_ = sorted(folder.glob("*.model"))
    if models_:
        return _sentencepiece(models_[0], settings)
    raise ConfigError(
        f"{folder} has no tokenizer: give a folder with tokenizer.json, vocab.txt, vocab.json and "
        "merges.txt, or a sentencepiece .model"
    )


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


def _sentencepiece(path: Path, settings: dict) -> Backend:
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


def _special(folder: Path, settings: dict) -> dict[str, str]:
    """Returns the texts of the special tokens by role."""
    stored = {**(_json(folder / "special_tokens_map.json") or {}), **settings}
    found = {}
    for role in ROLES:
        value = stored.get(f"{role}_token")
        if value is not None:
            found[role] = value["content"] if isinstance(value, dict) else value
    return found


def _json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
