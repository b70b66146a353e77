"""Where a run's numbers go: `metrics.csv` (17 significant digits) and TensorBoard events."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from tensorboardX import SummaryWriter


class MetricsWriter:
    """Appends rows to `WORKDIR/metrics.csv` and scalars to `WORKDIR/tensorboard`; process 0 alone.

    Args:
      workdir: the run's directory.
      columns: the table's columns; the first two are `step` and `split`.
      after_step: rows of later steps are dropped: a resumed run takes those steps again.
    """

    def __init__(self, workdir: str, columns: Sequence[str], after_step: int = 0):
        self._path = Path(workdir) / "metrics.csv"
        self._columns = list(columns)
        rows = [row for row in read_metrics(workdir) if int(row["step"]) <= after_step]
        self.elapsed = max((float(row["elapsed"] or 0) for row in rows), default=0.0)
        self._file = None
        if jax.process_index() != 0:
            return
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
        os.replace(temporary, self._path)
        self._file = self._path.open("a", newline="")
        self._table = csv.DictWriter(self._file, self._columns, restval="")
        self._board = SummaryWriter(
            str(Path(workdir) / "tensorboard"), purge_step=after_step + 1, write_to_disk=True
        )

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes one row; values of columns that the table has not go to TensorBoard alone."""
        if self._file is None:
            return
        digits = {key: f"{value:.17g}" for key, value in values.items() if key in self._columns}
        self._table.writerow({"step": step, "split": split} | digits)
        self._file.flush()
        for key, value in values.items():
            self._board.add_scalar(f"{split}/{key}", value, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._file is not None:
            self._file.close()
            self._board.close()


def read_metrics(workdir: str) -> list[dict[str, str]]:
    """Returns the rows of `WORKDIR/metrics.csv` as texts; a half-written last row is left out."""
    path = Path(workdir) / "metrics.csv"
    if not path.exists():
        return []
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def learning_curve(workdir: str) -> list[dict]:
    """Returns what `metrics.csv` has by step: `train_loss`, `validation_loss` and `accuracy`."""
    found: dict[int, dict] = {}
    for row in read_metrics(workdir):
        one = found.setdefault(int(row["step"]), {"step": int(row["step"])})
        one[f"{row['split']}_loss"] = float(row["loss"])
        if row["split"] == "validation" and row.get("accuracy"):
            one["accuracy"] = float(row["accuracy"])
    return list(found.values())
