"""What the benchmarks compare with: the same training step, or text, of another
library, or a step of our own in which everything trains.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax

from llm_jax.configuration import ConfigError
from llm_jax.training.run import RunConfig
from llm_jax.training.trainer import make_trainer


def _libraries():
    """Returns the modules torch and transformers."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigError(
            "--peer=transformers needs torch and transformers: make setup-dev"
        ) from error
    return torch, transformers


def transformers_step(run: RunConfig) -> Callable[[], float]:
    """Returns a function that takes one training step of the run's sizes in PyTorch.

    Of labelled texts it is BERT's with a classifier, else GPT-2's. It is warmed up already, and
    returns the loss, so the step is over when it returns.

    Raises:
      ConfigError: torch or transformers is not installed, or the run's family is another.
    """
    torch, transformers = _libraries()
    model, labelled = run.model, run.objective.kind == "labelled"
    if labelled and model.family != "bert":
        raise ConfigError(f"--peer=transformers has a classifier of bert, not of {model.family}")
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.precision)
    torch.manual_seed(0)
    if labelled:
        outputs = run.tuning.head.outputs
        config = transformers.BertConfig(
            vocab_size=model.vocab_size, max_position_embeddings=model.max_positions,
            hidden_size=model.hidden_size, num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_heads, intermediate_size=model.size_of_mlp,
            hidden_dropout_prob=model.dropout_rate, num_labels=outputs,
            attention_probs_dropout_prob=model.attention_dropout_rate,
        )  # fmt: skip
        network = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.GPT2Config(
            vocab_size=model.vocab_size, n_positions=run.data.sequence_length,
            n_embd=model.hidden_size, n_layer=model.num_layers, n_head=model.num_heads,
            n_inner=model.size_of_mlp, resid_pdrop=model.dropout_rate,
            embd_pdrop=model.dropout_rate, attn_pdrop=0.0, use_cache=False,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        network = transformers.GPT2LMHeadModel(config)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    shape = (run.batch_size, run.data.sequence_length)
    tokens = torch.randint(0, model.vocab_size, shape, device=device)
    labels = torch.randint(0, outputs, shape[:1], device=device) if labelled else tokens

    def step() -> float:
        with torch.autocast(device, dtype=low, enabled=low is not None):
            loss = network(input_ids=tokens, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(2):
        step()
    return step


def full_step(run, batch):
    """Returns a function that takes our own step of `run` with `method` full; it is warmed up."""
    trainer = make_trainer(dataclasses.replace(run, method="full"))
    states = [trainer.new_state()]

    def step():
        states[0], metrics = trainer.train_step(states[0], batch)
        jax.block_until_ready(metrics)

    for _ in range(2):
        step()
    return step


class _Clock:
    """A streamer of `transformers` that notes when each token came."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def transformers_writer(path: Path) -> Callable[[list[int], int], tuple[float, float, list[int]]]:
    """Returns `write(prompt, count) -> (seconds, tokens_per_second, tokens)`, greedy, of a file.

    Args:
      path: a Hugging Face folder with safetensors, or a llama-type *.gguf.

    Raises:
      ConfigError: torch or transformers is not installed.
    """
    torch, transformers = _libraries()
    is_file = path.suffix == ".gguf"
    # Neither pickled weights nor code of the folder's own is run, and nothing is fetched.
    kind = {"gguf_file": path.name} if is_file else {"use_safetensors": True}
    network = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent if is_file else path, dtype=torch.float32, local_files_only=True,
        trust_remote_code=False, **kind,
    ).eval()  # fmt: skip

    def write(prompt, count):
        clock, began = _Clock(), time.perf_counter()
        with torch.inference_mode():
            tokens = network.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None,
                pad_token_id=0, streamer=clock,
            )  # fmt: skip
        seconds = time.perf_counter() - began
        # The first note is the prompt's; the rate is that behind the second token.
        span = clock.times[-1] - clock.times[2] if count > 2 else 0.0
        return seconds, (count - 2) / span if span else 0.0, tokens[0, len(prompt) :].tolist()

    return write
