"""Tokenizers of checkpoints, against `transformers`' reading of the same files."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from llm_jax.configuration import ConfigError
from llm_jax.data.tokenizers.pretrained import load_pretrained_tokenizer

TEXTS = [
    "Hello, world! It's 12,345.67 — isn't it?",
    "def f(x):\n    return {'a': [1, 2,  3]}  # done\n\n\tend",
    "Füße naïve Ærøskøbing résumé",
    "大型语言模型 は 面白い 한국어 текст العربية हिन्दी",
    "👩‍👩‍👧‍👦 🏳️‍🌈 emoji 😀",
    "tab\tnull\x00bell\x07nbsp\u00a0zero\u200bwidth",
    " leading and trailing  ",
    "a</s>b <s> c [MASK] [SEP] d<|endoftext|>e",
    "",
]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def byte_level_folder(folder, marks):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    stored = json.loads(backend.to_str())["model"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(stored["vocab"]), encoding="utf-8")
    lines = [" ".join(pair) for pair in stored["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]), encoding="utf-8")
    return folder


def settings(folder, **values):
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def assert_same(ours, theirs):
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    assert ours.encode_all(TEXTS) == theirs(TEXTS)["input_ids"]


def test_gpt2_from_vocab_and_merges(transformers, tmp_path):
    folder = byte_level_folder(tmp_path / "gpt2", ["<|endoftext|>"])
    mark = "<|endoftext|>"
    marks = dict.fromkeys(("bos_token", "eos_token", "unk_token"), mark)
    settings(folder, tokenizer_class="GPT2Tokenizer", **marks)
    ours = load_pretrained_tokenizer(folder)
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    assert_same(ours, theirs)
    assert ours.eos_id == theirs.eos_token_id


def test_roberta_from_vocab_and_merges(transformers, tmp_path):
    folder = byte_level_folder(tmp_path / "roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    marks = {f"{role}_token": "<s>" for role in ("bos", "cls")}
    marks |= {f"{role}_token": "</s>" for role in ("eos", "sep")}
    marks |= {"pad_token": "<pad>", "unk_token": "<unk>"}
    settings(folder, tokenizer_class="RobertaTokenizer", **marks)
    assert_same(
        load_pretrained_tokenizer(folder), transformers.RobertaTokenizer.from_pretrained(folder)
    )


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_from_a_vocab_file(transformers, tmp_path, lowercase):
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = sorted({c for text in TEXTS for c in text if c.isprintable() and c != " "})
    words = [*marks, "hello", "world", "Hello", "it", "##ist", "re", "##turn"]
    words += characters + [f"##{c}" for c in characters] + [c.lower() for c in "HÆRF"]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(words)), encoding="utf-8")
    settings(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=lowercase)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path, do_lower_case=lowercase)
    assert_same(load_pretrained_tokenizer(tmp_path), theirs)


def test_tokenizer_json(transformers, tmp_path):
    backend = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"])
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    settings(tmp_path, tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert_same(load_pretrained_tokenizer(tmp_path), theirs)


def test_t5_from_a_sentencepiece_model(transformers, tmp_path):
    import sentencepiece

    (tmp_path / "text").write_text("\n".join(TEXTS[:6] * 4).replace("\x00", ""), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spiece"), vocab_size=220,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    settings(tmp_path, tokenizer_class="T5Tokenizer", eos_token="</s>", pad_token="<pad>")
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    ours = load_pretrained_tokenizer(tmp_path)
    assert_same(ours, theirs)
    assert ours.encode("a <extra_id_0> b") == theirs("a <extra_id_0> b")["input_ids"]


def test_streamed_text_is_the_decoded_text(tmp_path):
    folder = byte_level_folder(tmp_path / "gpt2", ["<|endoftext|>"])
    tokenizer = load_pretrained_tokenizer(folder)
    for text in TEXTS:
        stream = tokenizer.stream()
        ids = tokenizer.encode(text)
        parts = [stream.push(token) for token in ids]
        assert "".join(parts) + stream.flush() == tokenizer.decode(ids)
        assert not any("\ufffd" in part for part in parts)
    stream, cut = tokenizer.stream(), tokenizer.encode("x𓀀")[:-1]
    assert "".join(stream.push(token) for token in cut) == "x"
    assert stream.flush() == tokenizer.decode(cut)[1:] != ""


TEMPLATE = """{%- for message in messages %}
<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def test_the_chat_template_renders_as_the_reference(transformers, tmp_path):
    folder = byte_level_folder(tmp_path / "gpt2", ["<|endoftext|>"])
    marks = {"eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    settings(folder, tokenizer_class="GPT2Tokenizer", **marks)
    messages = [
        {"role": "user", "content": " Hi {{ 7 * 7 }} "},
        {"role": "assistant", "content": "Yes"},
    ]
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    for prompt in (True, False):
        expected = theirs.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, chat_template=TEMPLATE
        )
        ours = load_pretrained_tokenizer(folder).render_chat(messages, add_generation_prompt=prompt)
        assert ours == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['os'].system('true') }}",
        "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{% include '/etc/passwd' %}",
        "{{ unclosed",
    ],
)
def test_a_template_stays_in_its_sandbox(tmp_path, template):
    folder = byte_level_folder(tmp_path / "gpt2", ["<|endoftext|>"])
    settings(folder, chat_template=template)
    with pytest.raises(ConfigError, match="the chat template fails"):
        load_pretrained_tokenizer(folder).render_chat([{"role": "user", "content": "Hi"}])


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_pretrained_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 7}')
    with pytest.raises(ConfigError, match="damaged"):
        load_pretrained_tokenizer(tmp_path)


def test_an_id_out_of_range_is_refused(tmp_path):
    folder = byte_level_folder(tmp_path / "gpt2", ["<|endoftext|>"])
    with pytest.raises(ConfigError, match=r"token id 100000 is not in \[0, "):
        load_pretrained_tokenizer(folder).decode([100_000])
