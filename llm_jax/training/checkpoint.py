"""Checkpoints: atomic, checked by SHA-256, and whole or absent.

`WORKDIR/checkpoints/00000500/` holds `state/` (Orbax: one pytree, sharded), the run's
`config.json`, the data's `manifest.json`, the tokenizer's files, `info.json` (step, layout version)
and `checksums.json` over all of them. A save is written to `saving-00000500` by Orbax and a
thread while training goes on, summed up there, and renamed: a directory with a number for its
name is whole. Older ones go only after that. `best.json` names the step with the lowest
validation loss.
"""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from llm_jax.configuration import ConfigError
from llm_jax.parallel import distributed

LAYOUT_VERSION = 1
_SAVING = "saving-"


class CheckpointError(ConfigError):
    """A checkpoint could not be written, or what is there cannot be trusted."""


class Checkpoints:
    """The checkpoints of one work directory.

    Args:
      workdir: the run's directory, shared by all processes.
      keep_last: how many of the newest checkpoints stay besides the best.
      files: small files that go beside the state, by name.
    """

    def __init__(self, workdir: str, keep_last: int = 1, files: Mapping[str, bytes] | None = None):
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._keep_last = keep_last
        self._files = dict(files or {})
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Returns the steps of the whole checkpoints, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def newest(self, fallback: bool = False) -> int | None:
        """Returns the newest step, its files checked, or None where nothing was saved yet.

        Args:
          fallback: set a damaged checkpoint aside (as `damaged-STEP`) and take the one before.

        Raises:
          CheckpointError: the newest checkpoint is damaged; the message names the file.
        """
        return distributed.from_first(lambda: self._newest(fallback))

    def _newest(self, fallback: bool) -> int | None:
        for step in reversed(self.steps()):
            try:
                self.verify(step)
                return step
            except CheckpointError:
                if not fallback or step == self.steps()[0]:
                    raise
                path = self.directory / f"{step:08d}"
                os.replace(path, path.with_name(f"damaged-{step:08d}"))
        return None

    def best(self) -> dict | None:
        """Returns `{"step", "loss"}` of the best checkpoint, or None."""
        path = self.directory / "best.json"
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, step: int, state: Any, files: Mapping[str, bytes] | None = None) -> None:
        """Begins to save `state` as `step`; returns once the state may be donated.

        Fields of a named tuple that are None are not there: a state that gets a new one still fits
        what was saved before.

        Args:
          step: steps taken.
          state: any pytree.
          files: small files of this step, beside those of the run, by name.

        Raises:
          CheckpointError: this or the previous save failed; what was whole before still is.
        """
        self.wait()
        if distributed.from_first(lambda: step in self.steps()):
            return
        target = self.directory / f"{_SAVING}{step:08d}"
        self._saving_step = step
        try:
            if jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
                for left in self.directory.glob(f"{_SAVING}*"):
                    shutil.rmtree(left)
                target.mkdir()
            self._orbax.save(target / "state", args=ocp.args.PyTreeSave(_present(state)))
        except Exception as error:
            raise self._failed(error) from error
        files = self._files | dict(files or {})
        self._thread = threading.Thread(
            target=self._finish, args=(step, target, files), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Returns when no save is under way; `CheckpointError` if the last one failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._failed(failure) from failure

    def mark_best(self, step: int, loss: float) -> bool:
        """Marks `step` as best if its validation loss is the lowest so far; says whether.

        A loss that is not finite is never the best.
        """
        best = self.best()
        if not math.isfinite(loss) or (best is not None and best["loss"] <= loss):
            return False
        if jax.process_index() == 0:
            _write(self.directory / "best.json", json.dumps({"step": step, "loss": loss}))
        return True

    def verify(self, step: int) -> None:
        """Raises `CheckpointError` naming the first file of `step` that is missing or changed."""
        path = self.directory / f"{step:08d}"
        sums = path / "checksums.json"
        if not sums.exists():
            raise self._broken(step, "checksums.json is missing")
        for name, expected in json.loads(sums.read_text()).items():
            file = path / name
            if not file.exists():
                raise self._broken(step, f"{name} is missing")
            if _sha256(file) != expected:
                raise self._broken(step, f"{name} is not what was saved (its SHA-256 differs)")
        layout = json.loads((path / "info.json").read_text())["layout_version"]
        if layout != LAYOUT_VERSION:
            raise CheckpointError(
                f"checkpoint {path}: its layout version is {layout}, this is {LAYOUT_VERSION}; "
                "with the llm_jax that wrote it, python -m experiments.convert --source="
                f"{self.directory.parent} --target=DIR gives a model that --config.init_from=DIR "
                "reads here"
            )

    def restore(self, step: int, abstract: Any) -> Any:
        """Returns the state of `step` in the shapes, dtypes and shardings of `abstract`.

        `abstract` may be a part of what was saved, such as `{"params": ...}`. `verify` first.
        """
        wanted = _present(abstract)
        found = self._orbax.restore(
            self.directory / f"{step:08d}" / "state",
            args=ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=isinstance(abstract, dict),
            ),
        )
        return abstract._replace(**found) if hasattr(abstract, "_replace") else found

    def read(self, step: int, name: str) -> bytes | None:
        """Returns the file `name` beside the state of `step`, None where it has none."""
        path = self.directory / f"{step:08d}" / name
        return path.read_bytes() if path.exists() else None

    def go_back(self, step: int) -> int:
        """Drops the checkpoints after `step`, but for the oldest; returns the newest left, or 0."""
        self.wait()
        multihost_utils.sync_global_devices("saved")
        steps = self.steps()
        doomed = [kept for kept in steps[1:] if kept > step]
        multihost_utils.sync_global_devices("listed")
        if jax.process_index() == 0:
            best = self.best()
            if best is not None and best["step"] in doomed:
                (self.directory / "best.json").unlink()
            for kept in doomed:
                self._drop(kept)
        multihost_utils.sync_global_devices("dropped")
        return max(set(steps) - set(doomed), default=0)

    def close(self) -> None:
        """Waits for a save under way and releases Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _finish(self, step: int, target: Path, files: dict[str, bytes]) -> None:
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() != 0:
                return
            info = {"step": step, "layout_version": LAYOUT_VERSION}
            for name, content in (files | {"info.json": json.dumps(info).encode()}).items():
                (target / name).write_bytes(content)
            names = sorted(p.relative_to(target) for p in target.rglob("*") if p.is_file())
            sums = {str(name): _sha256(target / name, sync=True) for name in names}
            _write(target / "checksums.json", json.dumps(sums, indent=1))
            os.replace(target, self.directory / f"{step:08d}")
            self._prune()
        except BaseException as error:
            self._failure = error

    def _prune(self) -> None:
        steps = self.steps()
        keep = set(steps[-self._keep_last :])
        best = self.best()
        if best is not None:
            keep.add(best["step"])
        for step in set(steps) - keep:
            self._drop(step)

    def _drop(self, step: int) -> None:
        doomed = self.directory / f"{_SAVING}{step:08d}"
        os.replace(self.directory / f"{step:08d}", doomed)
        shutil.rmtree(doomed)

    def _failed(self, error: BaseException) -> CheckpointError:
        for left in self.directory.glob(f"{_SAVING}*"):
            shutil.rmtree(left, ignore_errors=True)
        steps = self.steps()
        last = f"step {steps[-1]} is whole and stays" if steps else "none was saved before"
        reason = " ".join(str(error).split())
        return CheckpointError(
            f"saving step {self._saving_step} in {self.directory} failed ({reason[:200]}); {last}: "
            "make room there and run the same command again"
        )

    def _broken(self, step: int, what: str) -> CheckpointError:
        before = [s for s in self.steps() if s < step]
        mend = (
            f"bring the file back, or pass --fallback to continue from step {before[-1]}"
            if before
            else "bring the file back, or start in another work directory"
        )
        return CheckpointError(f"checkpoint {self.directory / f'{step:08d}'}: {what}; {mend}")


def _present(state: Any) -> Any:
    """Returns a named tuple's fields that are not None, by name; anything else as it is."""
    if not hasattr(state, "_asdict"):
        return state
    return {name: value for name, value in state._asdict().items() if value is not None}


def _sha256(path: Path, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
