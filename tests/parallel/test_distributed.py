"""How processes meet, and what is said when they do not."""

import dataclasses
import json

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.parallel import distributed
from llm_jax.parallel.mesh import AXES, MeshConfig, _over_slices, batch_block, make_mesh
from tests.processes import Processes, free_port


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinator": "10.0.0.2"}, "--coordinator=10.0.0.2: give HOST:PORT"),
        ({"coordinator": "8476"}, "give HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 2}, "needs --num_processes and --process_id"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "give 0 to 1"),
        ({"num_processes": 2}, "--num_processes needs --coordinator=HOST:PORT"),
        ({"coordinator": "auto", "process_id": 0}, "--process_id needs --coordinator=HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line(given, words):
    with pytest.raises(ConfigError, match=words) as caught:
        distributed.start(**given)
    assert "\n" not in str(caught.value)


def test_alone_there_is_nothing_to_start(monkeypatch):
    for name in ("SLURM_NTASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    distributed.start()
    assert distributed.from_first(lambda: {"a": 1}) == {"a": 1}
    assert distributed.guarded(lambda: 7) == 7


@pytest.mark.parametrize(
    ("name", "value", "several"),
    [
        ("SLURM_NTASKS", "1", False),
        ("SLURM_NTASKS", "16", True),
        ("OMPI_COMM_WORLD_SIZE", "2", True),
        ("TPU_WORKER_HOSTNAMES", "localhost", False),
        ("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2", True),
    ],
)
def test_a_launcher_of_several_processes_is_noticed(monkeypatch, name, value, several):
    monkeypatch.setenv(name, value)
    assert distributed._launched() == several


@dataclasses.dataclass(frozen=True)
class TpuChip:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    slice_index: int
    platform: str = "fast"
    device_kind: str = "chip"


CHIPS = [TpuChip(number, number // 4, number // 8) for number in range(16)]


@pytest.mark.parametrize("slow", ["data", "pipe"])
def test_only_the_slow_axis_crosses_slices(slow):
    sizes = dict.fromkeys(AXES, 1) | {slow: 4, "tensor": 4}
    config = MeshConfig(**sizes, slices=2, across_slices=slow)
    devices = _over_slices(config, sizes, CHIPS).reshape(4, 4)
    assert [{chip.slice_index for chip in row} for row in devices] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"data": 16}, "the devices lie in 2 slices .*: set mesh.slices=2"),
        ({"data": 16, "slices": 4}, "mesh.slices is 4, but the devices lie in 2 slices"),
        ({"data": 1, "fsdp": 16, "slices": 2}, "mesh.data is 1 and crosses 2 slices"),
        ({"across_slices": "tensor"}, "give 'data' or 'pipe'"),
        ({"slices": 0}, "mesh.slices is 0"),
    ],
)
def test_meshes_that_the_slices_do_not_allow_are_refused(config, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make_mesh(MeshConfig(**config), CHIPS)
    assert "\n" not in str(caught.value)


def test_one_process_is_one_slice_and_feeds_the_whole_batch():
    with pytest.raises(ConfigError, match="devices lie in 1 process"):
        make_mesh(MeshConfig(slices=2))
    assert batch_block(make_mesh(MeshConfig(data=8))) == {"process_index": 0, "process_count": 1}


@pytest.mark.slow
@pytest.mark.parametrize("here", [0, 1])
def test_a_process_whose_others_never_come_says_so(here, tmp_path):
    port = free_port()
    command = [
        "-m", "experiments.pretrain", "--config=configs/gpt_quickstart.py:tiny",
        f"--workdir={tmp_path}/run", f"--coordinator=127.0.0.1:{port}", "--num_processes=2",
        f"--process_id={here}", "--connect_seconds=3",
    ]  # fmt: skip
    with Processes([command], tmp_path) as alone:
        assert alone.codes(120) == [distributed.LOST]
    assert alone.errors(0).strip() == (
        f"error: process {here} of 2 waited 3 s for all processes to meet at 127.0.0.1:{port}: see "
        "that every one was started, that they give the same --coordinator, and that its port can "
        "be reached"
    )
    assert not (tmp_path / "run").exists()


WORKER = """
import json, sys, time
from llm_jax.parallel import distributed

def main():
    distributed.start(coordinator="127.0.0.1:" + sys.argv[1], num_processes=3,
                      process_id=int(sys.argv[2]), lost_seconds=5.0)
    print(json.dumps(distributed.from_first(lambda: [sys.argv[2], None])), flush=True)
    if sys.argv[3] == sys.argv[2]:
        return 2
    time.sleep(float(sys.argv[4]))
    return 0

sys.exit(distributed.guarded(main))
"""


@pytest.mark.slow
def test_the_first_answers_for_all_and_one_that_fails_stops_all(tmp_path):
    for fails, codes in (("none", [0, 0, 0]), ("1", [3, 2, 3])):
        port = free_port()
        commands = [
            ["-c", WORKER, port, number, fails, 60 if fails == "1" else 1] for number in range(3)
        ]
        with Processes(commands, tmp_path / fails) as three:
            assert three.codes(50) == codes
        for number in range(3):
            assert json.loads(three.out(number)) == ["0", None]
            if codes[number] == distributed.LOST:
                assert three.errors(number).strip() == (
                    "error: process 1 of 3 ended with exit code 2: see its log; this one stops "
                    "too: start all again with the same commands to go on"
                )


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_is_named_within_the_bound(killed, tmp_path):
    port = free_port()
    commands = [["-c", WORKER, port, number, "none", 120] for number in range(3)]
    with Processes(commands, tmp_path) as three:
        three.wait_for(lambda: all(three.out(number) for number in range(3)))
        three.running[killed].kill()
        codes = three.codes(5.0 * 1.2 + 3.0 + 6.0)
    assert codes == [-9 if number == killed else distributed.LOST for number in range(3)]
    for number in {0, 1, 2} - {killed}:
        said = three.errors(number).strip().splitlines()[-1]
        assert said.startswith(f"error: process {killed} of 3")
        assert "lost" in said
