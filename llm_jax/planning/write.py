"""A plan as a configuration file: its parent, and what is different."""

import runpy
from collections.abc import Mapping
from pathlib import Path

from llm_jax.configuration import ConfigError, flatten, to_dict
from llm_jax.planning.step import without_data
from llm_jax.training.run import RunConfig, parse_run


def check(path: str, asked: str) -> None:
    """Raises `ConfigError` unless `path` can be a new file beside the configuration `asked`."""
    parent = Path(asked.partition(":")[0])
    if parent.parent != Path("configs"):
        raise ConfigError(f"--write needs --config=configs/NAME.py for a parent, not {asked}")
    if Path(path).suffix != ".py" or not Path(path).parent.is_dir():
        raise ConfigError(f"--write={path}: give a file NAME.py in a directory that exists")
    if Path(path).exists():
        raise ConfigError(f"--write={path} is there already: give another name, or remove it")


def write(path: str, asked: str, run: RunConfig, options: Mapping[str, str], why: str) -> None:
    """Writes the configuration file `path`.

    Args:
      path: that `check` let pass.
      asked: what `--config` said: configs/NAME.py, or with a variant behind a colon.
      run: the plan's configuration.
      options: of the compiler; the file's docstring says how to set them.
      why: a line of what the plan promises.
    """
    parent, _, variant = asked.partition(":")
    base = parse_run(without_data(runpy.run_path(parent)["get_config"](variant)))
    old, new = flatten(to_dict(base)), flatten(to_dict(run))
    changed = [key for key in sorted(new) if key in old and old[key] != new[key]]
    flags = " \\\\\n               ".join(f"--{name}={value}" for name, value in options.items())
    module, name = Path(parent).stem, Path(path).name
    lines = [
        f'"""configs/{module}.py as `python -m experiments.plan` chose to run it.',
        "",
        f"Command:   python -m experiments.pretrain --config=configs/{name} --workdir=runs/plan",
        *([f'Before:    export LIBTPU_INIT_ARGS="{flags}"'] if flags else []),
        f"Result:    none is claimed: {why}",
        '"""',
        "",
        f"from configs import {module}",
        "",
        "",
        'def get_config(variant: str = ""):',
        f'    """Returns the configuration; `variant` is a variant of configs/{module}.py."""',
        f"    config = {module}.get_config(variant" + (f' or "{variant}")' if variant else ")"),
        *(f"    config.{key} = {new[key]!r}" for key in changed),
        "    return config",
    ]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
