"""Tokenizers that come with a checkpoint, behind the interface of our own.

`load_pretrained_tokenizer(folder)` reads, in this order, `tokenizer.json`, `vocab.txt` (WordPiece),
`vocab.json` with `merges.txt` (byte-level BPE) or a sentencepiece `.model`; the library
`tokenizers` does the work. The chat template is rendered in Jinja's sandbox.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, processors
from tokenizers.decoders import DecodeStream

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers.backends import byte_level, sentencepiece_unigram, word_piece

ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
# The marks of BERT, RoBERTa and BART, T5, and GPT-2, whose folders often do not name them.
_USUAL = (
    {"unk": "[UNK]", "pad": "[PAD]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"},
    {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "sep": "</s>", "cls": "<s>",
     "mask": "<mask>"},
    {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"),
)  # fmt: skip
# What StarCoder, Qwen, SantaCoder, Code Llama and DeepSeek call the pieces that objectives know.
_SYMBOLS = {
    "<mask>": ("[MASK]",),
    "<fim_prefix>": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "\u2581<PRE>",
        "<\uff5cfim\u2581begin\uff5c>",
    ),
    "<fim_middle>": ("<|fim_middle|>", "<fim-middle>", "\u2581<MID>", "<\uff5cfim\u2581end\uff5c>"),
    "<fim_suffix>": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "\u2581<SUF>",
        "<\uff5cfim\u2581hole\uff5c>",
    ),
}


class PretrainedTokenizer:
    """Text to ids and back, as the checkpoint's own tokenizer does it.

    Attributes:
      vocab_size: ids are below it; added tokens count.
      special: text of the special tokens by role, e.g. `{"eos": "</s>"}`.
      bos_id, eos_id, pad_id: their ids, None where there is none.
      symbols: ids of the special tokens by their texts, and by the objectives' names for them.
      word_pieces: whether it is WordPiece, in which "##" joins a piece to the one before.
      chat_template: Jinja source, or None.
    """

    def __init__(self, backend: Backend, special: dict[str, str], chat_template: str | None = None):
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.special = special
        self.chat_template = chat_template
        # Ids may have gaps.
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        self.bos_id, self.eos_id, self.pad_id = (self._id(role) for role in ("bos", "eos", "pad"))
        self.word_pieces = isinstance(backend.model, models.WordPiece)
        self.symbols = self._symbols()

    def _id(self, role: str) -> int | None:
        text = self.special.get(role)
        return None if text is None else self._backend.token_to_id(text)

    def _symbols(self) -> dict[str, int]:
        added = self._backend.get_added_tokens_decoder()
        found = {token.content: number for number, token in added.items() if token.special}
        found |= {text: self._backend.token_to_id(text) for text in self.special.values()}
        for name, others in _SYMBOLS.items():
            # The role first; some vocabularies have others as ordinary pieces.
            texts = [self.special.get(name.strip("<>"), name), name, *others]
            ids = [self._backend.token_to_id(text) for text in texts]
            found[name] = next((number for number in ids if number is not None), None)
        return {text: number for text, number in found.items() if number is not None}

    @property
    def marks(self) -> tuple[int, int]:
        """Ids of the marks that begin and end a document; one mark may do both.

        Llama's, RoBERTa's and BART's are BOS and EOS, BERT's [CLS] and [SEP]; with nothing but an
        end mark (GPT-2, Qwen, T5) that one stands between documents.

        Raises:
          ConfigError: the tokenizer has no such mark.
        """
        ids = {role: self._id(role) for role in ("bos", "cls", "eos", "sep")}
        begins = [ids[role] for role in ("bos", "cls", "eos", "sep") if ids[role] is not None]
        ends = [ids[role] for role in ("eos", "sep", "bos", "cls") if ids[role] is not None]
        if not begins:
            raise ConfigError(
                "the tokenizer names no mark for a document's beginning or end: give one with "
                "bos_token, eos_token, cls_token or sep_token in its tokenizer_config.json"
            )
        return begins[0], ends[0]

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and behind a text of its own accord."""
        text = "a"
        ids, plain = self.encode(text), self.encode(text, add_special_tokens=False)
        behind = self._marks_behind(ids, plain)
        end = len(ids) - behind
        return ids[: end - len(plain)], ids[end:]

    @property
    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        """Ids that the tokenizer puts before, between and behind a pair of texts."""
        plain = self.encode("a", add_special_tokens=False)
        ids = self._backend.encode("a", "a").ids
        size = len(plain)
        places = [i for i in range(len(ids) - size + 1) if ids[i : i + size] == plain]
        first, second = places[0], places[-1]
        return ids[:first], ids[first + size : second], ids[second + size :]

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text without marks; what reads like a mark in it is text.

        A unigram model knows no other pieces for it: there it is unknown.
        """
        self._backend.encode_special_tokens = True
        try:
            encoded = self.encode_all(texts, add_special_tokens=False)
        finally:
            self._backend.encode_special_tokens = False
        unknown = self._id("unk")
        special = set(self.symbols.values()) - {unknown}
        return [
            ids if special.isdisjoint(ids) else [unknown if i in special else i for i in ids]
            for ids in encoded
        ]

    def pieces(self) -> list[bytes]:
        """Returns the UTF-8 bytes that each token stands for, none for the special ones.

        A space in front is part of a token, in WordPiece of every piece without "##". The unknown
        token stands for U+FFFD.
        """
        added = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        byte_level = "ByteLevel" in json.dumps(json.loads(self._backend.to_str())["decoder"])
        unknown = None if byte_level else self._id("unk")
        special = set(self.symbols.values()) - {unknown}

        def read(text: str, number: int) -> bytes:
            if number == unknown:
                return (" \ufffd" if self.word_pieces else "\ufffd").encode()
            if byte_level and text not in added:
                return bytes(_BYTES[character] for character in text)
            if self.word_pieces:
                return (text[2:] if text.startswith("##") else f" {text}").encode()
            if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", text):
                return bytes([int(byte[1], 16)])
            return text.replace("▁", " ").encode()

        found = [b""] * self.vocab_size
        for text, number in self._backend.get_vocab(with_added_tokens=True).items():
            if number not in special:
                found[number] = read(text, number)
        return found

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
        """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`.

        WordPiece without gaps between its ids is there as `vocab.txt` too, as BERT's code reads it.
        """
        self._backend.save(str(Path(folder, "tokenizer.json")))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {
            f"{role}_token": text for role, text in self.special.items()
        }
        normalizer = json.loads(self._backend.to_str())["normalizer"] or {}
        if "lowercase" in normalizer:  # for who reads the vocab.txt
            settings["do_lower_case"] = normalizer["lowercase"]
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        Path(folder, "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        vocab = self._backend.get_vocab(with_added_tokens=True)
        if self.word_pieces and len(vocab) == self.vocab_size:
            words = "".join(f"{word}\n" for word in sorted(vocab, key=vocab.get))
            Path(folder, "vocab.txt").write_text(words, encoding="utf-8")

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


def _byte_characters() -> dict[str, int]:
    """Returns the byte that each character of byte-level BPE stands for.

    Printable ones of Latin-1 stand for themselves, the others follow from U+0100 on; Radford et al.
    2019.
    """
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _byte_characters()


def is_there(folder: Path) -> bool:
    """Says whether `folder` has a tokenizer to load here; a lone `tokenizer.model` is our own."""
    names = {file.name for file in folder.glob("*")}
    models_ = {name for name in names if name.endswith(".model")}
    if "tokenizer_config.json" not in names:
        models_.discard("tokenizer.model")
    return bool(models_ or names & {"tokenizer.json", "vocab.txt", "vocab.json"})


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
    return PretrainedTokenizer(backend, special or _usual(backend.get_vocab()), template)


def _usual(vocab: Mapping[str, int]) -> dict[str, str]:
    """Returns the marks of the first family in `_USUAL` that `vocab` has all of."""
    return next((marks for marks in _USUAL if not set(marks.values()) - vocab.keys()), {})


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
        vocab = _json(folder / "vocab.json")
        backend, special = byte_level(vocab, pairs), special or _usual(vocab)
        if "cls" in special and "sep" in special:
            ends = [(special[name], backend.token_to_id(special[name])) for name in ("sep", "cls")]
            backend.post_processor = processors.RobertaProcessing(
                *ends, trim_offsets=True, add_prefix_space=False
            )
        backend.add_special_tokens(sorted(set(special.values())))
        return backend
    models_ = sorted(folder.glob("*.model"))
    if models_:
        return sentencepiece_unigram(models_[0], settings)
    raise ConfigError(
        f"{folder} has no tokenizer: give a folder with tokenizer.json, vocab.txt, vocab.json and "
        "merges.txt, or a sentencepiece .model"
    )


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
