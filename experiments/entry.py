"""What every experiment's start and end share: flags, one-line errors, one JSON line of results."""

import json
import sys
from collections.abc import Callable

import jax
from absl import app, flags
from ml_collections import config_flags

from llm_jax.configuration import ConfigError

_EMULATED = flags.DEFINE_integer(
    "emulated_devices",
    0,
    "Split the CPU into this many devices, to try a mesh without an accelerator; 0: leave it.",
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


def launch(main: Callable[[], dict]) -> None:
    """Parses the flags, runs `main` and prints its result as the last line of stdout, in JSON.

    Bad input ends with one line on stderr and exit code 2; Ctrl-C before or after training with
    one line and exit code 0.
    """
    sys.exit(_run(main))


def _run(main) -> int:
    try:
        _parse_flags()
        if _EMULATED.value:
            jax.config.update("jax_num_cpu_devices", _EMULATED.value)
        result = main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        print(json.dumps({"finished": False}))
        return 0
    print(json.dumps(result), flush=True)
    return 0


def _parse_flags() -> None:
    """Parses sys.argv; what absl or ml_collections refuses becomes a ConfigError in one line."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(sys.argv, known_only=False)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        text = " ".join(str(error).replace("FATAL Flags parsing error:", "").split())
        raise ConfigError(f"{text.strip(chr(34))} (--help lists the flags)") from error
    if len(rest) > 1:
        raise ConfigError(f"{' '.join(rest[1:])!r} is no flag: write --name=value")
