"""What `benchmark` compares with: the same training step in another library."""

from collections.abc import Callable

import jax

from llm_jax.configuration import ConfigError
from llm_jax.training.run import RunConfig


def transformers_step(run: RunConfig) -> Callable[[], float]:
    """Returns a function that takes one GPT-2 training step of the run's sizes in PyTorch.

    It is warmed up already, and returns the loss, so the step is over when it returns.

    Raises:
      ConfigError: torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise ConfigError(
            "--peer=transformers needs torch and transformers: make setup-dev"
        ) from error
    model = run.model
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.precision)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=model.vocab_size, n_positions=run.data.sequence_length,
        n_embd=model.hidden_size, n_layer=model.num_layers, n_head=model.num_heads,
        n_inner=model.size_of_mlp, resid_pdrop=model.dropout_rate,
        embd_pdrop=model.dropout_rate, attn_pdrop=0.0, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    network = GPT2LMHeadModel(config).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    shape = (run.batch_size, run.data.sequence_length)
    tokens = torch.randint(0, model.vocab_size, shape, device=device)

    def step() -> float:
        with torch.autocast(device, dtype=low, enabled=low is not None):
            loss = network(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(2):
        step()
    return step
