"""What every experiment's start and end share: flags, one-line errors, one JSON line of results."""

import errno
import functools
import json
import runpy
import sys
from collections.abc import Callable

import jax
from absl import app, flags
from ml_collections import config_flags

from llm_jax.configuration import ConfigError, nearest
from llm_jax.parallel import distributed
from llm_jax.training.run import RunConfig, parse_run

_EMULATED = flags.DEFINE_integer(
    "emulated_devices",
    0,
    "Split the CPU into this many devices, to try a mesh without an accelerator; 0: leave it.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "Of several processes: HOST:PORT at which process 0 listens; auto finds it on TPU, GKE, Slurm "
    "and Open MPI (the default where those name several processes), mpi4py under other MPIs.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many --coordinator joins.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_CONNECT = flags.DEFINE_float("connect_seconds", 300.0, "How long to wait until all are there.")
_LOST = flags.DEFINE_float(
    "lost_seconds", 30.0, "A process without a sign of life for so long is lost: all stop."
)


def define_config() -> flags.FlagHolder:
    """Defines `--config=configs/FILE.py[:variant]`, whose keys `--config.KEY=VALUE` changes."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "The experiment's configuration: configs/FILE.py[:variant]. Any key of it can be changed "
        "with --config.KEY=VALUE, for example --config.optim.learning_rate=1e-3.",
        lock_config=True,
    )


def required(flag: flags.FlagHolder):
    """Returns the flag's value; one clear line when it was not given."""
    if flag.value is None:
        raise ConfigError(f"--{flag.name} is missing: give it, or see --help")
    return flag.value


def run_config(flag: flags.FlagHolder) -> RunConfig:
    """Returns the checked configuration of `--config` with its overrides."""
    config = required(flag)
    try:
        return parse_run(config)
    except OSError as error:
        name = config_flags.get_config_filename(flags.FLAGS[flag.name])
        raise ConfigError(
            f"--config={name} is no file: see configs/ for those there are"
        ) from error


def say(text: str) -> None:
    """Prints a line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def launch(main: Callable[..., dict], *, positional: bool = False) -> None:
    """Parses the flags, runs `main` and prints its result as the last line of stdout, in JSON.

    With `positional`, `main` gets the list of the arguments that are no flags; else there may be
    none.

    Bad input ends with one line on stderr and exit code 2; Ctrl-C before or after training with
    one line and exit code 0. A process that stops because another one did ends with one line that
    names it and exit code 3.
    """
    sys.exit(distributed.guarded(functools.partial(_run, main, positional)))


def _run(main, positional: bool = False) -> int:
    try:
        given = _parse_flags()[1:]
        if given and not positional:
            raise ConfigError(f"{' '.join(given)!r} is no flag: write --name=value")
        if _EMULATED.value:
            jax.config.update("jax_num_cpu_devices", _EMULATED.value)
        distributed.start(
            coordinator=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
            connect_seconds=_CONNECT.value,
            lost_seconds=_LOST.value,
        )
        result = main(given) if positional else main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: no room to write {error.filename or 'a file'} ({error.strerror}); checkpoints "
            "that were whole still are: make room and run the same command again",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        print(json.dumps({"finished": False}))
        return 0 if jax.process_count() == 1 else 1  # one of several must stop the others
    print(json.dumps(result), flush=True)
    return 0


def _parse_flags() -> list[str]:
    """Parses sys.argv and returns what is no flag of it, the program's name first.

    What absl or ml_collections refuses becomes a ConfigError in one line.
    """
    app.define_help_flags()
    try:
        return flags.FLAGS(sys.argv)
    except (AttributeError, KeyError) as error:
        raise ConfigError(_unknown_key() or f"{error} (--help lists the flags)") from error
    except flags.DuplicateFlagError as error:
        raise ConfigError("--config is given twice: give it once") from error
    except (flags.Error, TypeError, ValueError) as error:
        last_line = str(error).strip().splitlines()[-1]
        raise ConfigError(f"{last_line} (--help lists the flags)") from error


def _unknown_key() -> str | None:
    """Returns what to say of the first `--config.KEY` in sys.argv that the configuration lacks."""
    file = next(a.partition("=")[2] for a in sys.argv if a.startswith("--config="))
    path, _, variant = file.partition(":")
    config = runpy.run_path(path)["get_config"](variant)
    for argument in sys.argv[1:]:
        if not argument.startswith("--config."):
            continue
        key, node = argument.removeprefix("--config.").partition("=")[0], config
        for part in key.split("."):
            known = list(node.keys()) if hasattr(node, "keys") else []
            if part not in known:
                return f"--config.{key} is no known key: {nearest(part, known)}"
            node = node.get(part)
    return None
