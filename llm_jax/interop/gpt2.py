"""GPT-2's names in `transformers`: `GPT2LMHeadModel`."""

from llm_jax.interop.options import ACTIVATIONS, activation, demand, demand_defaults
from llm_jax.interop.table import FLAT, SAME, Entry, Layout
from llm_jax.models import gpt2

MODEL_TYPES = ("gpt2",)
CONFIG = gpt2.Config
# Masks that older files carry.
IGNORED = (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)
COPIES = {"lm_head.weight": "transformer.wte.weight"}
PREFIX = "transformer."


def read_config(hf: dict) -> gpt2.Config:
    """Returns the Config of a config.json."""
    demand(hf, {
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False, "add_cross_attention": False,
        "tie_word_embeddings": True, "embd_pdrop": hf.get("resid_pdrop", 0.1),
    })  # fmt: skip
    return gpt2.Config(
        num_layers=hf["n_layer"],
        num_heads=hf["n_head"],
        hidden_size=hf["n_embd"],
        mlp_size=hf.get("n_inner"),
        vocab_size=hf["vocab_size"],
        max_positions=hf["n_positions"],
        dropout_rate=hf.get("resid_pdrop", 0.1),
        attention_dropout_rate=hf.get("attn_pdrop", 0.1),
        layer_norm_epsilon=hf.get("layer_norm_epsilon", 1e-5),
        activation=activation(hf.get("activation_function", "gelu_new")),
        init_std=hf.get("initializer_range", 0.02),
    )


def write_config(config: gpt2.Config) -> dict:
    """Returns the config.json of a Config; `ConfigError` where GPT-2 has no such choice."""
    choices = ("positions", "norm", "qk_norm", "use_bias", "tied_embeddings", "window",
               "attention_pattern")  # fmt: skip
    demand_defaults(config, gpt2.Config(), choices, "GPT-2")
    own_sizes = gpt2.Config(num_heads=config.num_heads, hidden_size=config.hidden_size)
    for name in ("kv_heads", "size_of_head"):
        demand_defaults(config, own_sizes, (name,), "GPT-2")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_embd": config.hidden_size,
        "n_inner": config.mlp_size,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "resid_pdrop": config.dropout_rate,
        "embd_pdrop": config.dropout_rate,
        "attn_pdrop": config.attention_dropout_rate,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "activation_function": ACTIVATIONS[config.activation][0],
        "initializer_range": config.init_std,
    }


def table(config: gpt2.Config) -> list[Entry]:
    """Returns the entries; GPT-2's kernels are [in, out], as here, with q, k and v in one."""
    size = config.hidden_size
    inward, outward = Layout(shape=(size, -1)), Layout(shape=(-1, size))
    block, qkv = "transformer.h.{layer}.", ("query", "key", "value")
    entries = [
        Entry("transformer.wte.weight", "embedding/table", Layout(rows=config.vocab_size)),
        Entry("transformer.wpe.weight", "positions/table"),
        Entry(block + "attn.c_attn.weight",
              tuple(f"layers/attention/{n}/kernel" for n in qkv), inward, axis=1),
        Entry(block + "attn.c_attn.bias", tuple(f"layers/attention/{n}/bias" for n in qkv), FLAT),
        Entry(block + "attn.c_proj.weight", "layers/attention/output/kernel", outward),
        Entry(block + "attn.c_proj.bias", "layers/attention/output/bias"),
        Entry(block + "mlp.c_fc.weight", "layers/mlp/up/kernel"),
        Entry(block + "mlp.c_fc.bias", "layers/mlp/up/bias"),
        Entry(block + "mlp.c_proj.weight", "layers/mlp/down/kernel"),
        Entry(block + "mlp.c_proj.bias", "layers/mlp/down/bias"),
    ]  # fmt: skip
    norms = (
        (block + "ln_1", "layers/attention_norm"),
        (block + "ln_2", "layers/mlp_norm"),
        ("transformer.ln_f", "final_norm"),
    )
    for theirs, ours in norms:
        entries.append(Entry(f"{theirs}.weight", f"{ours}/scale", SAME))
        entries.append(Entry(f"{theirs}.bias", f"{ours}/bias", SAME))
    return entries
