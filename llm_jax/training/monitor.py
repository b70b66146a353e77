"""What a run shows while it trains: header, progress, metrics, and its stop when numbers fail."""

import sys
import time
from pathlib import Path

from llm_jax.configuration import ConfigError
from llm_jax.losses.registry import work
from llm_jax.models import Model
from llm_jax.training.goodput import TRAINING, Ledger, goodput
from llm_jax.training.hardware import peak_bytes
from llm_jax.training.metrics import MetricsWriter
from llm_jax.training.progress import Progress, duration
from llm_jax.training.report import write_report
from llm_jax.training.run import RunConfig

COLUMNS = (
    "step", "split", "loss", "accuracy", "perplexity", "bits_per_byte", "learning_rate",
    "gradient_norm",
    "tokens_per_second", "mfu", "skipped", "rollbacks", "elapsed",
)  # fmt: skip


class Monitor:
    """Watches one run.

    Args:
      workdir: where `metrics.csv`, TensorBoard events and the report go.
      run: the run's configuration.
      model: its model.
      peak: measured matmul rate of all devices in FLOP/s.
      first: steps taken before, 0 for a new run.
      header: of `report.header`; printed at once.
      ledger: says what time was spent on; written whenever `metrics.csv` is.
      length: tokens of a usual example; None: `data.sequence_length`.
    """

    def __init__(
        self, workdir: str, run: RunConfig, model: Model, peak: float, first: int, header,
        ledger: Ledger, length: int | None = None,
    ):  # fmt: skip
        self._workdir, self._run, self._header = workdir, run, header
        example = work(run.objective, model, length or run.data.sequence_length)
        self._flops_per_token = example.flops.total
        self._tokens_per_step = run.batch_size * example.tokens
        self._peak = peak
        self._columns = (*COLUMNS, *run.robust.sums)
        self._writer = MetricsWriter(workdir, self._columns, first)
        self._progress = Progress(run.steps)
        for name, value in header.items():
            self._progress.say(f"{name + ':':<14} {value}")
        if first:
            self._progress.say(f"resuming {workdir} at step {first}")
        self._earlier, self._began = self._writer.elapsed, time.perf_counter()
        self._ledger = ledger
        self._mark, self._marked_step, self._first = self._trained(), first, first
        self._rates = []

    def elapsed(self) -> float:
        """Returns the seconds trained so far, earlier parts of the run included."""
        return self._earlier + time.perf_counter() - self._began

    def _trained(self) -> float:
        seconds = self._ledger.seconds()
        return sum(seconds[kind] for kind in TRAINING)

    def stepped(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the numbers of `step`; writes and shows those of every `log.every`-th.

        Raises:
          ConfigError: too many steps in a row had no finite gradient.
        """
        if metrics["skipped_in_a_row"] >= self._run.max_skipped_steps:
            raise ConfigError(
                f"stopped at step {step}: {self._run.max_skipped_steps} steps in a row had a loss "
                "or gradient that is not finite; lower optim.learning_rate, set optim.clip_norm or "
                "use precision bf16 or fp32 (in another --workdir)"
            )
        if step % self._run.log.every and step != self._run.steps:
            return
        trained = self._trained()
        seconds = max(trained - self._mark, 1e-9)
        rate = (step - self._marked_step) * self._tokens_per_step / seconds
        self._mark, self._marked_step = trained, step
        self._rates.append(rate)
        values = {
            **metrics,
            "tokens_per_second": rate,
            "mfu": rate * self._flops_per_token / self._peak,
            "elapsed": self.elapsed(),
        }
        self._writer.write(step, "train", values)
        since = time.perf_counter() - self._began
        left = (self._run.steps - step) * since / max(step - self._first, 1)
        self._progress.show(step, values, values["elapsed"], left)
        self._ledger.write(step)

    def rolled_back(self, rollback: dict) -> None:
        """Takes what a `Guard` left out: the steps after `back_to` are taken again."""
        step, (first, last) = rollback["back_to"], rollback["left_out"]
        self._progress.say(
            f"step {rollback['step']}: {rollback['reason']}; back to step {step}, without the "
            f"batches {first} to {last}"
        )
        self._writer.close()
        self._writer = MetricsWriter(self._workdir, self._columns, step)
        self._mark, self._marked_step = self._trained(), step

    def evaluated(self, step: int, scores: dict[str, float]) -> None:
        """Takes the validation scores at `step`."""
        self._writer.write(step, "validation", scores | {"elapsed": self.elapsed()})
        shown = {"accuracy": ".2%", "perplexity": ".2f", "bits_per_byte": ".4f"}
        others = [f"{name} {scores[name]:{form}}" for name, form in shown.items() if name in scores]
        line = [f"step {step}", f"validation loss {scores['loss']:.4f}", *others]
        self._progress.say("  ".join(line).replace("bits_per_byte", "bits/byte"))

    def interrupted(self, step: int, signal: str | None) -> dict:
        """Says how to go on; returns the result of a run that stopped before its end."""
        self._writer.close()
        self._ledger.write(step)
        # A module that was run by its name: sys.argv has its path.
        command = " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
        self._progress.say(
            f"{signal}: saved step {step}; go on with: python -m experiments.{command}"
        )
        return {"finished": False, "step": step, "workdir": self._workdir}

    def finished(self, result: dict, samples: list[tuple[str, str]], rollbacks: list[dict]) -> dict:
        """Writes the report; returns `result` with the run's speed, memory and goodput."""
        rate = sorted(self._rates)[len(self._rates) // 2] if self._rates else 0.0
        self._ledger.write(result["step"])
        seconds = self._ledger.seconds()
        result = result | {
            "goodput": goodput(seconds),
            "tokens_per_second": rate,
            "mfu": rate * self._flops_per_token / self._peak,
            "peak_bytes": peak_bytes(),
            "workdir": self._workdir,
        }
        self._writer.close()
        write_report(
            self._workdir, self._header, result, samples, seconds=seconds, rollbacks=rollbacks
        )
        self._progress.say(
            f"finished step {result['step']} in {duration(self.elapsed())}; "
            f"report: {self._workdir}/report.md"
        )
        return result
