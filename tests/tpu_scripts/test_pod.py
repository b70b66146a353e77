"""Creating, setting up, running on, copying from and deleting a queued resource."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.tpu_scripts.conftest import POD, SCRIPTS

PROGRAM = Path(__file__).with_name("program.py")
MADE = [*POD, "--type=v6e-64", "--poll=0.1"]
# What a shell, ssh, or a template could take for its own.
WORDS = ["a b", "it's", '"q"', "$HOME", "$(date) $$", "`id`", "a;b|c&d>e", "*", "\\", "",
         "--x=1  2", "é\nnew line", "%d!#~"]  # fmt: skip


def planned(cloud, *words, **plan):
    """Returns the words of a command that acts as planned, per host or for `all`."""
    (cloud.root / "plan.json").write_text(
        json.dumps({host.replace("_", "-"): acts for host, acts in plan.items()})
    )
    return ["python", PROGRAM, cloud.root, *words]


def lives(cloud):
    """Returns how often the command was started on each host, with which words."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(cloud.root.glob("pod-*.jsonl"))
    }


def until(condition, seconds=20):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


def states(cloud):
    """Returns what run.sh says each host does."""
    return cloud.run("run.sh", *POD, "--action=status")[0].split("\n")[:-1]


def test_dry_runs_print_the_exact_commands_and_call_nothing(cloud):
    where = "--project=my-project --zone=my-zone"
    resources = "gcloud compute tpus queued-resources"
    expected = {
        ("create.sh", "--type=v5p-128", "--spot"): f"{resources} create pod {where} "
        "--accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 --node-id=pod --spot",
        ("create.sh", "--type=v5litepod-256", "--slices=2", "--reserved"): f"{resources} create "
        f"pod {where} --accelerator-type=v5litepod-256 --runtime-version=v2-alpha-tpuv5-lite "
        "--node-count=2 --node-prefix=pod --reserved",
        ("delete.sh",): f"{resources} delete pod {where} --force --quiet",
        ("copy.sh", "--from=/mnt/a b", "--to=out"): f"{resources} ssh pod {where} --node=0 "
        "--worker=0 '--command=tar -c -C '\\''/mnt/a b'\\'' .' | tar -x -C out",
        ("run.sh", "--", "echo", "$HOME"): f"{resources} ssh pod {where} --node=all --worker=all "
        "'--command=cd llm_jax && tpu_scripts/on_host.sh start --logs=runs/logs -- echo "
        "'\\''$HOME'\\'''",
    }  # fmt: skip
    for (script, *words), line in expected.items():
        out, _ = cloud.run(script, *POD, "--dry_run", *words)
        assert out == line + "\n"
    out, _ = cloud.run("setup.sh", *POD, "--dry_run", "--share=10.0.0.2:/share")
    assert [line.split()[0] for line in out.splitlines()] == ["git", "gcloud", "gcloud"]
    assert "on_host.sh setup --share=10.0.0.2:/share'" in out
    out, _ = cloud.run("watch.sh", *MADE, "--dry_run", "--", "python", "x.py")
    verbs = [line.split()[4] for line in out.splitlines() if line.startswith("gcloud")]
    assert verbs == ["delete", "create", "ssh", "ssh", "scp", "ssh", "ssh"]
    assert cloud.calls() == []


def test_create_waits_until_active_and_a_second_one_changes_nothing(cloud):
    cloud.run("create.sh", *MADE)
    assert cloud.verbs() == ["create"]
    cloud.run("create.sh", *MADE)
    assert cloud.verbs() == ["create"]
    # `name~/pod$` is no other resource whose name ends or begins so.
    assert {word for words in cloud.calls() if words[3] == "list" for word in words[4:]} == {
        "--project=my-project", "--zone=my-zone", "--filter=name~/pod$",
        "--format=value(state.state)",
    }  # fmt: skip


def test_create_makes_a_preempted_request_anew(cloud):
    cloud.play(states=["SUSPENDING", "SUSPENDED"])
    cloud.run("create.sh", *MADE)
    assert cloud.verbs() == ["delete", "create"]


def test_create_asks_once_and_not_where_the_state_is_unknown(cloud):
    cloud.play(unreachable=True)
    _, err = cloud.run("create.sh", *MADE, expect=1)
    assert "UNAVAILABLE" in err
    cloud.play(unreachable=False, states=["FAILED"])
    _, err = cloud.run("create.sh", *MADE, expect=1)
    assert "the request failed" in err
    assert cloud.verbs() == ["describe"]


def test_delete_waits_and_what_is_not_there_is_no_error(cloud):
    cloud.run("delete.sh", *POD, "--poll=0")
    assert cloud.verbs() == []
    cloud.play(states=["ACTIVE"])
    cloud.run("delete.sh", *POD, "--poll=0")
    assert cloud.verbs() == ["delete"]
    assert [words[3] for words in cloud.calls()][-2:] == ["list", "list"]  # DELETING, gone


@pytest.mark.slow
def test_setup_twice_installs_and_mounts_once(cloud):
    cloud.play(states=["ACTIVE"], uncommitted=" M a.py\n")
    for _ in range(2):
        _, err = cloud.run("setup.sh", *POD, "--share=10.0.0.2:/share")
        assert "changes that are not committed stay here: abc1234 goes" in err
    assert [words for words in cloud.calls("sudo") if words[0] == "mount"] == [
        ["mount", "-t", "nfs", "10.0.0.2:/share", "/mnt/shared"]
    ]
    calls = cloud.calls("python3")
    assert calls.count(["-m", "uv", "venv", "--python=3.11", ".venv"]) == len(cloud.hosts)
    install = [words for words in calls if words[2:4] == ["pip", "install"]]
    assert all("--constraint=constraints.txt" in words for words in install)
    assert [words[-1] for words in install] == ["--editable=.[tpu]"] * 2 * len(cloud.hosts)


def test_every_word_reaches_every_host_and_each_has_its_log(cloud):
    cloud.play(states=["ACTIVE"])
    cloud.run("setup.sh", *POD)
    logs = cloud.root / "the logs"
    cloud.run("run.sh", *POD, f"--logs={logs}", "--", *planned(cloud, *WORDS, all=["end"]))
    until(lambda: all(" exited 0" in line for line in states(cloud)))
    assert lives(cloud) == {"pod-w-0": [WORDS], "pod-w-1": [WORDS]}
    for host in ("pod-w-0", "pod-w-1"):
        assert (logs / f"{host}.log").read_text() == "step 1\n"
        assert json.loads((logs / f"{host}.out").read_text()) == {"finished": True}


@pytest.mark.slow
def test_a_second_start_leaves_a_run_alone_and_stop_lets_it_save(cloud):
    cloud.play(states=["ACTIVE"])
    assert states(cloud) == ["new-host absent"] * 2
    cloud.run("setup.sh", *POD)
    command = planned(cloud, pod_w_0=["hang"], pod_w_1=["stubborn"])
    for said in ("started", "running already"):
        out, _ = cloud.run("run.sh", *POD, "--", *command)
        assert out.count(said) == 2
    until(lambda: len(list(cloud.root.glob("*.ready"))) == 2)
    assert [len(each) for each in lives(cloud).values()] == [1, 1]
    assert states(cloud) == ["pod-w-0 running", "pod-w-1 running"]
    # The script of the host itself, so that the stubborn one is not waited for two minutes.
    for host in cloud.hosts:
        script = host / "llm_jax/tpu_scripts/on_host.sh"
        path = f"{cloud.root / 'host_bin'}:/usr/bin:/bin"
        cloud.run(script, "stop", "--grace=1", STAND_IN_HOST=host.name, PATH=path)
    assert states(cloud) == ["pod-w-0 absent", "pod-w-1 absent"]
    out = (cloud.hosts[0] / "llm_jax/runs/logs/pod-w-0.out").read_text()
    assert json.loads(out) == {"finished": False}


@pytest.mark.parametrize(
    ("act", "code", "said"),
    [
        ("end", 0, '{"finished": true}\n'),
        ("leave", 75, '{"finished": false}\n'),
        ("fail", 1, ""),
        ("refuse", 2, ""),
    ],
)
def test_a_command_in_the_foreground_ends_with_a_code_that_says_how(cloud, act, code, said):
    command = planned(cloud, all=[act])
    out, _ = cloud.run("on_host.sh", "exec", "--", *command, expect=code, STAND_IN_HOST="pod")
    assert out == said


def test_a_container_that_is_stopped_lets_its_command_save(cloud):
    command = [SCRIPTS / "on_host.sh", "exec", "--", *planned(cloud, all=["hang"])]
    env = os.environ | {"STAND_IN_HOST": "pod"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    until((cloud.root / "pod.ready").exists)
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert json.loads(out) == {"finished": False}
    assert process.returncode == 75


def test_copy_brings_what_tar_finds_under_any_name(cloud):
    cloud.play(states=["ACTIVE"])
    source, target = cloud.root / "a run's $files", cloud.root / "to here"
    (source / "checkpoints").mkdir(parents=True)
    (source / "report.md").write_text("loss")
    for _ in range(2):
        cloud.run(
            "copy.sh", *POD, f"--from={source}", f"--to={target}", "--", "--exclude=checkpoints"
        )
    assert [path.name for path in target.iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("create.sh", ["--name=pod"], "--project is missing"),
        ("create.sh", [*POD, "--type=v9-8"], "no image is known for --type=v9-8"),
        ("create.sh", [*MADE, "--spot", "--reserved"], "--spot and --reserved exclude each other"),
        ("create.sh", [*MADE, "--slices=two"], "--slices=two: give a whole number"),
        ("delete.sh", ["--name=a;b"], "--name=a;b: give small letters"),
        ("setup.sh", [*POD, "--shar=x"], "--shar is no flag"),
        ("copy.sh", [*POD, "somewhere"], "somewhere is no flag of the form --name=value"),
        ("run.sh", POD, "no command is given"),
        ("run.sh", [*POD, "--action=restart"], "it is start, stop or status"),
        ("watch.sh", [*MADE, "--poll=soon", "--", "x"], "--poll=soon: give a number"),
        ("on_host.sh", ["mend"], "mend: it is setup, start, exec, status or stop"),
    ],
)
def test_bad_flags_are_one_line_and_nothing_is_called(cloud, script, words, message):
    _, err = cloud.run(script, *words, expect=2)
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert cloud.calls() == []
