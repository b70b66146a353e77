"""A run that is killed again and again, on changing devices and processes, and what came of it.

python -m tests.experiments.kills DIRECTORY KILLS STEPS   # prints the figures, in JSON

Each life of the run goes on from the newest checkpoint and is killed with SIGKILL, one of its
processes by chance, at a random step at least ten after a checkpoint: so the losses that the dead
life wrote after the checkpoint are those of a run continued from it without a change.
"""

import json
import random
import re
import sys
from pathlib import Path

from llm_jax.training.metrics import read_metrics
from tests.processes import Processes, joined

AFTER = 10  # losses compared behind each restart
EVERY = 14  # steps between checkpoints
# (processes, devices of each, mesh): 8, 8, 4, 2, 2, 8 devices, and round again.
LIVES = (
    (2, 4, {"data": 2, "fsdp": 2, "tensor": 2}),
    (2, 4, {"data": 2, "fsdp": 2, "tensor": 2}),
    (2, 2, {"data": 1, "fsdp": 4}),
    (1, 2, {"data": 2}),
    (1, 2, {"data": 2}),
    (1, 8, {"data": 4, "tensor": 2}),
)
QUIET = ("--config.sampling.prompts=()", "--config.evaluation.every=0")
ALONE = (1, 1, {"data": 1})


def commands(workdir: Path, life, flags) -> list[list[str]]:
    processes, devices, mesh = life
    own = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    return [
        ["-m", "experiments.pretrain", f"--workdir={workdir}", *flags, *own,
         f"--emulated_devices={devices}", f"--config.checkpoint.every={EVERY}",
         "--config.log.every=1", *meet]
        for meet in joined(processes)
    ]  # fmt: skip


def train_losses(workdir: Path) -> dict[int, float]:
    rows = read_metrics(workdir)
    steps = [int(row["step"]) for row in rows if row["split"] == "train"]
    assert len(steps) == len(set(steps))
    return {int(row["step"]): float(row["loss"]) for row in rows if row["split"] == "train"}


def finish(workdir: Path, life, flags, logs: Path) -> dict:
    """Lets the run come to its end; returns its result."""
    with Processes(commands(workdir, life, flags), logs) as last:
        codes = last.codes()
        assert not any(codes), last.errors(0)[-3000:]
    return json.loads(last.out(0).strip().splitlines()[-1])


def live_and_die(workdir: Path, life, flags, logs: Path, chance: random.Random) -> int:
    """Goes on until some steps behind the next checkpoint, then kills a process; says which."""
    with Processes(commands(workdir, life, flags), logs) as these:
        these.wait_for(lambda: re.search(r"^step \d+/", these.errors(0), re.MULTILINE))
        goal = (went_on_from(logs) // EVERY + 1) * EVERY + AFTER + chance.randrange(3)
        these.wait_for(lambda: max(train_losses(workdir), default=0) >= goal)
        killed = chance.randrange(len(these.running))
        these.running[killed].kill()
        codes = these.codes(60)
    for number, code in enumerate(codes):
        assert code == (-9 if number == killed else 3), these.errors(number)[-3000:]
        if number != killed:
            assert f"error: process {killed} of {len(codes)}" in these.errors(number)
    return killed


def went_on_from(logs: Path) -> int:
    """Returns the step of the checkpoint that a life began with."""
    found = re.search(r"resuming .* at step (\d+)", (logs / "err-0").read_text())
    return int(found[1]) if found else 0


def kill_run(directory: Path, kills: int, flags, seed: int = 0) -> dict:
    """Returns the figures of one run left alone and one killed `kills` times."""
    chance = random.Random(seed)
    workdir, now = directory / "killed", {}
    errors, lives = {"stayed": [], "changed": []}, []
    for number in range(kills + 1):
        life, before = LIVES[number % len(LIVES)], now
        logs = directory / f"life-{number}"
        killed = None
        if number < kills:
            killed = live_and_die(workdir, life, flags, logs, chance)
        else:
            result = finish(workdir, life, flags, logs)
        now, first = train_losses(workdir), went_on_from(logs)
        lives.append({"life": life, "from": first, "reached": max(now), "killed": killed})
        print(lives[-1], file=sys.stderr, flush=True)
        if number:
            steps = range(first + 1, first + 1 + AFTER)
            how = "stayed" if LIVES[(number - 1) % len(LIVES)] == life else "changed"
            errors[how].append(max(abs(now[n] - before[n]) / before[n] for n in steps))
    alone = finish(directory / "alone", ALONE, flags, directory / "alone-log")
    undisturbed = train_losses(directory / "alone")
    return {
        "kills": kills,
        "steps": result["step"],
        "every_step_once": sorted(now) == list(range(1, result["step"] + 1)),
        "restarts_on_another_mesh": len(errors["changed"]),
        "worst_there": max(errors["changed"]),
        "restarts_on_the_same": len(errors["stayed"]),
        "worst_on_the_same": max(errors["stayed"]),
        "held_out": result["loss"],
        "held_out_alone": alone["loss"],
        "worst_step_against_alone": max(abs(now[n] - undisturbed[n]) / undisturbed[n] for n in now),
    }


if __name__ == "__main__":
    from tests.experiments.conftest import TINY, write_text

    place = Path(sys.argv[1])
    write_text(place / "text")
    given = (*TINY, *QUIET, f"--config.data.path={place}/text", f"--config.steps={sys.argv[3]}")
    print(json.dumps(kill_run(place, int(sys.argv[2]), given)))
