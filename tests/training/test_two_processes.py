"""Two processes of four devices each train as one device does.

python -m tests.training.test_two_processes DIRECTORY     # on every mesh of test_all_meshes
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.parallel import test_all_meshes
from tests.processes import Processes, free_port
from tests.training.two_processes import CASES, losses


def commands_in(folder, *more) -> list[list]:
    port = free_port()
    return [
        ["-m", "tests.training.two_processes", port, number, folder / f"{number}.json", *more]
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_train_as_one_device(tmp_path):
    commands = commands_in(tmp_path)
    with Processes(commands, tmp_path) as both:
        expected = {name: losses(name, {}) for name in ("data", "expert")}
        assert both.codes(900) == [0, 0], both.errors(0)[-3000:]
    found = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    assert set(found[0]) == set(CASES)
    for name, here in found[0].items():
        assert here["losses"] == found[1][name]["losses"]
        np.testing.assert_allclose(
            here["losses"], expected.get(name, expected["data"]), rtol=1e-5, err_msg=name
        )
    # Where the axis that crosses is none of the batch's, both feed the same rows.
    blocks = {name: (one["process_index"], one["process_count"]) for name, one in found[1].items()}
    assert blocks["data"] == blocks["fsdp"] == blocks["slices"] == blocks["expert"] == (1, 2)
    assert blocks["tensor"] == blocks["seq"] == blocks["pipe"] == (0, 1)


def main(folder: Path) -> None:
    """Prints the worst relative difference from one device's 20 losses, mesh by mesh."""
    folder.mkdir(parents=True, exist_ok=True)
    with Processes(commands_in(folder, "every"), folder) as both:
        assert both.codes(7200) == [0, 0], both.errors(0)[-3000:]
    jax.config.update("jax_num_cpu_devices", 8)
    found = [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]
    assert found[0] == found[1]
    for text, here in found[0].items():
        kind = "mixture" if text in test_all_meshes.MIXTURE_MESHES else "dense"
        worst = np.max(np.abs(np.divide(here, test_all_meshes.alone(kind)[0]) - 1))
        print(f"{text:32} {worst:.1e}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
