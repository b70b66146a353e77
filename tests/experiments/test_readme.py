"""The commands that the README and the pages show, run as they stand there but for their size."""

import re
import shlex

import pytest

from tests.experiments.conftest import ROOT, TINY, result, run

PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("pretraining", "generation", "optimizers", "batches")),
)


def commands(pages=PAGES):
    """Every `python -m experiments.NAME ...` of the pages, without what only points elsewhere."""
    found = []
    for page in pages:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for line in re.findall(r"python -m experiments\.[^`\n#]+", text):
            name, *flags = shlex.split(line.removeprefix("python -m experiments."))
            if (name, *flags) not in found:
                found.append((name, *flags))
    return found


def test_the_pages_show_every_experiment():
    pages = ("README.md", *(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")))
    shown = {name for name, *_ in commands(pages)}
    there = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {
        "__init__",
        "entry",
        "peers",
    }
    assert shown == there


# Those that need a folder of the reader's, or a Llama: tests/generation and test_long_context;
# the one line for many configurations: test_configs and test_objectives; preparing data:
# test_prepare_data; what is tuned: test_finetune and test_cross_validate.
ELSEWHERE = re.compile(
    "--(init_from|rope_scaling)=|.*NAME|prepare_data|finetune|predict|compare$|attack|"
    "cross_validate|--config=configs/answers"
)
HERE = [each for each in commands() if not any(map(ELSEWHERE.match, each))]


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE, ids=" ".join)
def test_a_command_of_the_pages_runs(command, trained, text, tmp_path):
    name, *flags = command
    workdir, _, _ = trained
    small = []
    for flag in flags:
        if flag.startswith("--config=") and name != "plot_schedule":
            flag += ":tiny"
        if flag.startswith("--workdir="):
            own = name in ("pretrain", "train_tokenizer")
            flag = f"--workdir={tmp_path / 'run' if own else workdir}"
        if flag.startswith("--source="):
            flag = f"--source={workdir}"
        if flag.startswith("--target="):
            flag = f"--target={tmp_path / 'converted'}"
        if flag.startswith("--output="):
            flag = f"--output={tmp_path / 'picture.png'}"
        if flag.startswith("--config.data.mixture."):
            flag = flag.replace("=DIR", f"={text}")
        if flag.startswith("--config.data.path="):
            flag = f"--config.data.path={text}"
        small.append(flag)
    draws = name in ("plot_schedule", "inspect_data")
    if draws and not any(flag.startswith("--output=") for flag in small):
        small.append(f"--output={tmp_path / 'picture.png'}")
    if name == "pretrain":
        given = {flag.partition("=")[0] for flag in small}
        rest = (*TINY, f"--config.data.path={text}") if "mixture" not in flags[0] else ()
        small += [flag for flag in rest if flag.partition("=")[0] not in given]
    outcome = result(run(name, *small))
    assert isinstance(outcome, dict)
    assert outcome
