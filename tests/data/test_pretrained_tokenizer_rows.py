"""Rows of text in a checkpoint's own tokens, against `transformers`' reading of the same files."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig, load_manifest, load_tokenizer, open_split
from llm_jax.data import prepare as make_data
from llm_jax.data.objectives import OBJECTIVES, Vocabulary
from tests.data.conftest import WORDS
from tests.data.objective_rows import generators
from tests.data.test_pretrained_tokenizer import TEXTS, byte_level_folder, settings

transformers = pytest.importorskip("transformers")
MARKS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
FIM = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]


def gpt2_folder(folder):
    return byte_level_folder(folder, ["<|endoftext|>", *FIM]), transformers.GPT2Tokenizer


def bart_folder(folder):
    return byte_level_folder(folder, MARKS), transformers.BartTokenizer


def bert_folder(folder):
    folder.mkdir()
    letters = sorted({c for text in TEXTS for c in text.lower() if c.isprintable() and c != " "})
    letters += [c for c in "abcdefghijklmnopqrstuvwxyz0123456789" if c not in letters]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    words += ["alpha", "return", "##ld", "lamb", "##da"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return folder, transformers.BertTokenizer


def t5_folder(folder):
    import sentencepiece

    folder.mkdir()
    text = folder.parent / "text"
    lines = [*TEXTS[:6], " ".join(WORDS)] * 8
    text.write_text("\n".join(lines).replace("\x00", ""), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=220,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return folder, transformers.T5Tokenizer


def llama_folder(folder):
    folder.mkdir()
    first = Tokenizer(models.BPE())
    first.pre_tokenizer = pre_tokenizers.Metaspace()
    first.train_from_iterator([" ".join(WORDS[:8])] * 3, trainers.BpeTrainer(vocab_size=90))
    trained = json.loads(first.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {piece: number for number, piece in enumerate([*pieces, *trained["vocab"]])}
    merges = [tuple(pair) for pair in trained["merges"]]
    backend = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    settings(folder, tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>",
             unk_token="<unk>")  # fmt: skip
    return folder, transformers.PreTrainedTokenizerFast


MAKERS = {
    "gpt2": gpt2_folder, "bart": bart_folder, "bert": bert_folder, "t5": t5_folder,
    "llama": llama_folder,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each family its folder and `transformers`' tokenizer of it."""
    base = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for name, make in MAKERS.items():
        folder, cls = make(base / name)
        found[name] = folder, cls.from_pretrained(folder)
    return found


def data_of(texts, folder, **more):
    return DataConfig(
        source="text",
        path=str(texts),
        sequence_length=32,
        tokenizer=TokenizerConfig(path=str(folder)),
        **more,
    )


@pytest.fixture(scope="module")
def writings(tmp_path_factory):
    """Two kinds of documents: words, and what reads like marks."""
    directory = tmp_path_factory.mktemp("writings")
    for number in range(40):
        chosen = np.random.default_rng(number).choice(WORDS, 25)
        text = " ".join(chosen) + "\n</s> <s> [SEP] [MASK] <|endoftext|> <mask>. End"
        (directory / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return directory


def marks_of(theirs):
    """What stands before and behind a document, by the reference's names for its marks."""
    begin = next(x for x in (theirs.bos_token_id, theirs.cls_token_id, theirs.eos_token_id)
                 if x is not None)  # fmt: skip
    end = theirs.sep_token_id if theirs.eos_token_id is None else theirs.eos_token_id
    return begin, end


@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_documents_in_the_references_ids(folders, writings, tmp_path, name):
    folder, theirs = folders[name]
    manifest = make_data(data_of(writings, folder), vocab_size=1000, directory=tmp_path / "data")
    rows = open_split(tmp_path / "data", "train")
    batch = rows.take(range(len(rows)))
    lengths = batch["segment_ids"].astype(bool).sum(1)
    stream = [batch["tokens"][0, 0], *(t for row, n in zip(batch["targets"], lengths)
                                       for t in row[:n])]  # fmt: skip
    begin, end = marks_of(theirs)
    texts = {path.read_text("utf-8") for path in writings.iterdir()}
    encoded = [theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
               for text in texts]  # fmt: skip
    if name == "t5":  # a unigram model reads "</s>" as the mark: not in ours
        encoded = [[theirs.unk_token_id if i == end else i for i in ids] for ids in encoded]
    if begin == end:
        assert name in ("gpt2", "t5")
        cuts = [i for i, token in enumerate(stream) if token == begin]
        documents = [stream[a + 1 : b] for a, b in itertools.pairwise(cuts)]
        assert cuts[0] == 0
        assert cuts[-1] == len(stream) - 1
    else:
        cuts = [i for i, token in enumerate(stream) if token == begin]
        documents = [stream[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(stream)])]
        assert all(document.pop() == end for document in documents)
    assert len(documents) == manifest.documents["train"]
    assert all(document in encoded for document in documents)
    # Every token of a document is predicted once, its end mark with it.
    assert batch["weights"].sum() == manifest.tokens["train"] == sum(len(d) + 1 for d in documents)
    # The reference's own marks are these, where it sets any.
    framed = theirs("alpha")["input_ids"]
    assert framed[0] == begin or name in ("gpt2", "t5")
    assert framed[-1] == end or name in ("gpt2", "llama")


def test_a_mark_that_ends_and_begins_is_predicted_where_it_ends(folders, writings, tmp_path):
    make_data(data_of(writings, folders["gpt2"][0]), vocab_size=1000, directory=tmp_path / "data")
    rows = open_split(tmp_path / "data", "train")
    batch = rows.take(range(len(rows)))
    mark = folders["gpt2"][1].eos_token_id
    ends = (batch["targets"] == mark) & (batch["segment_ids"] > 0)
    assert ends.sum() == rows.documents
    assert (batch["weights"][ends] == 1).all()
    begins = (batch["tokens"] == mark) & (batch["segment_ids"] > 0)
    assert (batch["positions"][begins] == 0).all()
    # The document behind a mark has a segment of its own.
    inner = ends[:, :-1]
    assert (np.diff(batch["segment_ids"], axis=1)[inner & begins[:, 1:]] == 1).all()


def test_a_prepared_directory_is_whole_by_itself(folders, writings, tmp_path):
    folder = shutil.copytree(folders["bert"][0], tmp_path / "bert")
    config, directory = data_of(writings, folder), tmp_path / "data"
    manifest = make_data(config, vocab_size=1000, directory=directory)
    expected = load_tokenizer(folder).encode_all(TEXTS)
    shutil.rmtree(folder)
    assert load_tokenizer(directory).encode_all(TEXTS) == expected
    assert make_data(config, vocab_size=1000, directory=directory) == manifest
    assert manifest.tokenizer_sha256 == manifest.files["tokenizer.json"]
    assert load_manifest(directory).vocab_size == load_tokenizer(directory).vocab_size
    theirs = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    assert theirs(TEXTS)["input_ids"] == expected
    assert (theirs.cls_token, theirs.mask_token) == ("[CLS]", "[MASK]")
    with (directory / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ConfigError, match="tokenizer.json is damaged"):
        open_split(directory, "train")


def test_our_own_tokenizer_is_taken_from_a_prepared_directory(writings, tmp_path):
    config = DataConfig(source="text", path=str(writings), sequence_length=32)
    first = make_data(config, vocab_size=300, directory=tmp_path / "a")
    again = make_data(data_of(writings, tmp_path / "a"), vocab_size=300, directory=tmp_path / "b")
    assert again.tokens_sha256 == first.tokens_sha256
    assert again.tokenizer_sha256 == first.tokenizer_sha256


def test_of_a_work_directory_the_newest_checkpoints_is_taken(folders, prepared, tmp_path):
    for step, name in ((1, "gpt2"), (20, "bert")):
        checkpoint = tmp_path / "checkpoints" / f"{step:08d}"
        shutil.copytree(folders[name][0], checkpoint)
    assert load_tokenizer(tmp_path).encode("alpha") == folders["bert"][1]("alpha")["input_ids"]
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    shutil.copy(prepared / "tokenizer.model", checkpoint)
    assert load_tokenizer(tmp_path).encode("alpha") == load_tokenizer(prepared).encode("alpha")


def test_what_does_not_fit_is_refused_in_one_line(folders, writings, tmp_path):
    def refused(name, words, objective="next_token", vocab_size=1000):
        config, chosen = data_of(writings, folders[name][0]), OBJECTIVES[objective]()
        with pytest.raises(ConfigError, match=words) as caught:
            make_data(config, vocab_size=vocab_size, directory=tmp_path / "data", objective=chosen)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "data").exists()

    size = 1 + max(folders["bert"][1].get_vocab().values())
    refused("bert", f"model.vocab_size is {size - 1} .* has {size} pieces", vocab_size=size - 1)
    refused("bert", "'span_corruption' needs <extra_id_0>, .* and 97 more, .*bert has not",
            "span_corruption")  # fmt: skip
    refused("t5", "'denoising' needs <mask>, which", "denoising")
    refused("llama", "needs <fim_prefix>, <fim_middle>, <fim_suffix>", "fill_in_the_middle")
    shutil.copytree(folders["gpt2"][0], tmp_path / "bare")
    settings(tmp_path / "bare", unk_token="<|endoftext|>")
    with pytest.raises(ConfigError, match="names no mark for a document's beginning"):
        make_data(data_of(writings, tmp_path / "bare"), vocab_size=1000, directory=tmp_path / "x")
    with pytest.raises(ConfigError, match="missing is not there"):
        make_data(data_of(writings, tmp_path / "missing"), vocab_size=9, directory=tmp_path / "x")


def test_symbols_are_the_families_own(folders, tmp_path):
    for name, mask in (("bert", "[MASK]"), ("bart", "<mask>")):
        folder, theirs = folders[name]
        found = Vocabulary.of(load_tokenizer(folder)).symbol_ids(("<mask>",))
        assert found == [theirs.convert_tokens_to_ids(mask)] == [theirs.mask_token_id]
    folder, theirs = folders["t5"]
    names = OBJECTIVES["span_corruption"]().symbols
    found = Vocabulary.of(load_tokenizer(folder)).symbol_ids(names).tolist()
    assert found == [theirs.convert_tokens_to_ids(name) for name in names]
    assert found == list(range(found[0], found[0] - 100, -1))
    names = OBJECTIVES["fill_in_the_middle"]().symbols
    folder, theirs = folders["gpt2"]
    # Starcoder's, SantaCoder's, Code Llama's and DeepSeek's names mean the same.
    found = dict(zip(names, Vocabulary.of(load_tokenizer(folder)).symbol_ids(names).tolist()))
    for name, number in zip(FIM, [theirs.convert_tokens_to_ids(each) for each in FIM]):
        assert found[name.replace("|", "")] == number
    others = [
        ("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
        ("<fim-prefix>", "<fim-middle>", "<fim-suffix>"),
        ("▁<PRE>", "▁<MID>", "▁<SUF>"),
        ("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁end\uff5c>", "<\uff5cfim▁hole\uff5c>"),
    ]
    for number, texts in enumerate(others):
        folder = byte_level_folder(tmp_path / str(number), ["<|endoftext|>", *texts])
        tokenizer = load_tokenizer(folder)
        vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
        assert [tokenizer.symbols[name] for name in names] == [vocab[text] for text in texts]


def test_no_text_becomes_a_mark_or_a_symbol(folders):
    for folder, _ in folders.values():
        tokenizer = load_tokenizer(folder)
        special = set(tokenizer.symbols.values()) - {tokenizer.symbols.get("<unk>")}
        special -= {tokenizer.symbols.get("[UNK]")}
        for text in tokenizer.symbols:
            ids = tokenizer.encode_documents([f"a {text} b", text])
            assert special.isdisjoint(ids[0] + ids[1]), text


@pytest.mark.parametrize("name", ["gpt2", "bart", "llama"])
def test_pieces_are_the_bytes_of_a_text(folders, name):
    tokenizer = load_tokenizer(folders[name][0])
    pieces = tokenizer.pieces()
    for text in TEXTS:
        ids = tokenizer.encode_documents([text])[0]
        prefix = b" " if name == "llama" and text else b""
        assert b"".join(pieces[token] for token in ids) == prefix + text.encode()
    special = {tokenizer.symbols[text] for text in tokenizer.special.values()}
    if name == "llama":  # the unknown is text
        special.remove(0)
    assert all((not pieces[token]) == (token in special) for token in special | {40, 90, 200})


def joined(vocabulary, ids):
    ids = np.array(ids)
    return ~vocabulary.ends_word[ids[:-1]] & ~vocabulary.begins_word[ids[1:]]


def test_words_of_wordpiece_are_the_references(folders):
    folder, theirs = folders["bert"]
    vocabulary = Vocabulary.of(load_tokenizer(folder))
    for text in TEXTS[:6]:
        found = theirs(text, add_special_tokens=False)
        words = np.array(found.word_ids())
        np.testing.assert_array_equal(joined(vocabulary, found["input_ids"]),
                                      words[1:] == words[:-1])  # fmt: skip
    # The collator takes what has no space between for a word: the same where spaces cut.
    text = "alpha lambda yield naive return42 ."
    collator = transformers.DataCollatorForLanguageModeling(theirs, whole_word_mask=True)
    found = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.array([found["offset_mapping"]])
    words, _ = collator._calc_word_ids_and_prob_mask(offsets, np.zeros(offsets.shape[:2], int))
    got = joined(vocabulary, found["input_ids"])
    np.testing.assert_array_equal(got, words[0, 1:] == words[0, :-1])
    assert 5 < got.sum() < len(got)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_words_are_those_of_a_regular_expression(folders, name):
    tokenizer = load_tokenizer(folders[name][0])
    vocabulary, pieces = Vocabulary.of(tokenizer), tokenizer.pieces()
    text = "def alpha_beta(x1): return self.gamma lambda42 yield = import, (delta)"
    ids = tokenizer.encode_documents([text])[0]
    ids = [token for token in ids if "\ufffd" not in pieces[token].decode("utf-8", "replace")]
    text = b"".join(pieces[token] for token in ids).decode()
    ends = np.cumsum([len(pieces[token]) for token in ids])[:-1]
    inside = np.zeros(len(text) + 1, bool)
    for word in re.finditer(r"\w+", text):
        inside[word.start() + 1 : word.end()] = True
    got = joined(vocabulary, ids)
    np.testing.assert_array_equal(got, inside[ends])
    assert 0 < got.sum() < len(got)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_pairs_have_the_references_marks(folders, tmp_path, name):
    folder, theirs = folders[name]
    pairs = [(" ".join(WORDS[i : i + 4]), " ".join(WORDS[-i:])) for i in range(1, 8)] * 6
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{a} {i}\t{b}" for i, (a, b) in
                                                  enumerate(pairs)), encoding="utf-8")  # fmt: skip
    objective = OBJECTIVES["pairs"](target_length=9)
    config = DataConfig(
        source="pairs", path=str(tmp_path / "pairs.tsv"), sequence_length=12,
        tokenizer=TokenizerConfig(path=str(folder)),
    )  # fmt: skip
    make_data(config, vocab_size=1000, directory=tmp_path / "data", objective=objective)
    rows = open_split(tmp_path / "data", "train", objective)
    batch = rows.take(range(len(rows)))
    want = {"source": [], "targets": []}
    for number, pair in enumerate(pairs):
        texts = f"{pair[0]} {number}", pair[1]
        for key, text, length in zip(want, texts, (12, 9)):
            want[key].append(theirs(text, truncation=True, max_length=length)["input_ids"])
    want = list(zip(*want.values()))
    for source, mask, target, weights in zip(*(
        batch[key] for key in ("source", "source_mask", "targets", "weights")
    )):  # fmt: skip
        assert (source[mask > 0].tolist(), target[weights > 0].tolist()) in want
    assert len(rows) > 30


def test_denoising_has_barts_frame(folders, writings, tmp_path):
    folder, theirs = folders["bart"]
    objective = OBJECTIVES["denoising"]()
    config = data_of(writings, folder)
    make_data(config, vocab_size=1000, directory=tmp_path / "data", objective=objective)
    rows = open_split(tmp_path / "data", "train", objective)
    batch = rows.take(range(len(rows)), generators(len(rows)))
    begin, end = theirs("")["input_ids"]
    assert (batch["source"][:, 0] == begin).all()
    assert (batch["targets"][:, 0] == begin).all()
    last = batch["weights"].sum(1).astype(int) - 1
    assert (np.take_along_axis(batch["targets"], last[:, None], 1) == end).all()
    assert last.max() == 31
    masks = (batch["source"] == theirs.mask_token_id).sum()
    assert 0 < masks < 0.3 * batch["source_mask"].sum()


def test_span_corruption_is_t5s(folders, writings, tmp_path):
    """The reference is the arithmetic of `transformers`' examples for T5, written down here."""
    folder, theirs = folders["t5"]
    objective = OBJECTIVES["span_corruption"]()
    make_data(data_of(writings, folder), vocab_size=1000, directory=tmp_path / "data",
              objective=objective)  # fmt: skip
    rows = open_split(tmp_path / "data", "train", objective)
    batch = rows.take(range(len(rows)), generators(len(rows)))
    first = theirs.convert_tokens_to_ids("<extra_id_0>")
    for source, target in zip(batch["source"], batch["targets"]):
        for side in (source, target):
            sentinels = side[side >= first - 99]
            assert sentinels.tolist() == list(range(first, first - len(sentinels), -1))
        assert target[0] == first
        assert theirs.eos_token_id in target
        assert theirs.eos_token_id in source
