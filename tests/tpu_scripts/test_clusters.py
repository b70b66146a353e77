"""GKE, Slurm, the container, and what holds for every script."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.tpu_scripts.conftest import REPOSITORY, SCRIPTS
from tests.tpu_scripts.test_pod import WORDS, lives, planned

GKE = ["--name=pod", "--image=my-registry/llm_jax:1", "--accelerator=tpu-v5p-slice",
       "--topology=4x4x8", "--claim=my-claim"]  # fmt: skip
ALL = sorted([*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("*.sbatch")])


def expanded(word):
    """Returns what Kubernetes makes of an argument: two dollars are one, $(NAME) its value.

    https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container
    """
    return re.sub(r"\$(\$|\(\w+\))", lambda found: "$" if found[1] == "$" else "a value", word)


def test_a_jobset_has_every_host_and_every_word(cloud):
    cloud.run("gke.sh", *GKE, "--slices=2", "--spot", "--", "python", *WORDS)
    cloud.run("gke.sh", *GKE, "--slices=2", "--spot", "--", "python", *WORDS)
    assert cloud.calls("kubectl") == [["apply", "-f", "-"]] * 2
    text = (cloud.root / "manifest.yaml").read_text()
    assert not re.search("@[a-z_]+@", text)
    jobset = yaml.safe_load(text)
    job = jobset["spec"]["replicatedJobs"][0]
    pods = job["template"]["spec"]
    pod = pods["template"]["spec"]
    container = pod["containers"][0]
    assert (job["replicas"], pods["parallelism"], pods["completions"]) == (2, 32, 32)
    assert [expanded(word) for word in container["args"]] == ["python", *WORDS]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    # One host that fails stops all, which start again; bad input does not.
    assert pods["backoffLimit"] == 0
    assert pods["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    rules = jobset["spec"]["failurePolicy"]["rules"]
    assert rules == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]


def test_a_jobset_is_printed_in_a_dry_run_and_deleted_without_an_error(cloud):
    out, _ = cloud.run("gke.sh", *GKE, "--dry_run", "--", "python", "x.py")
    first, *manifest, last = out.splitlines()
    assert (first, last) == ("kubectl apply -f - <<'END'", "END")
    pods = yaml.safe_load("\n".join(manifest))["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert "cloud.google.com/gke-spot" not in pods["template"]["spec"]["nodeSelector"]
    assert cloud.calls("kubectl") == []
    cloud.run("gke.sh", "--action=delete", "--name=pod")
    assert cloud.calls("kubectl") == [["delete", "jobset", "pod", "--ignore-not-found"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology=2x3"], "--topology=2x3 has 6 chips: no multiple of --chips_per_host=4"),
        (["--topology=16"], "write it as 4x4"),
        (['--claim=a"b'], "that is no name of one"),
        (["--image="], "--image is missing"),
    ],
)
def test_a_jobset_that_cannot_be_is_refused(cloud, words, message):
    _, err = cloud.run("gke.sh", *GKE, *words, "--", "python", "x.py", expect=2)
    assert message in err
    assert cloud.calls("kubectl") == []


@pytest.mark.parametrize("finished", [True, False])
def test_a_slurm_job_that_was_interrupted_is_queued_again(cloud, finished):
    logs = cloud.root / "the logs"
    command = planned(cloud, *WORDS, all=["end" if finished else "leave"])
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1", "STAND_IN_HOST": "pod-w-0"}
    # What a node wrote before an earlier restart is no sign of this one's end.
    logs.mkdir()
    (logs / "7.0-node9-0.out").write_text('{"finished": false}\n')
    cloud.run("slurm_gpu.sbatch", f"--logs={logs}", "--", *command, **job)
    assert cloud.calls("scontrol") == ([] if finished else [["requeue", "7"]])
    assert lives(cloud) == {"pod-w-0": [WORDS] * 2}
    assert json.loads((logs / "7.1-node2-0.out").read_text()) == {"finished": finished}


def test_a_slurm_job_that_failed_ends_so(cloud):
    job = {"SLURM_JOB_ID": "7", "STAND_IN_HOST": "pod-w-0"}
    command = planned(cloud, all=["fail"])
    cloud.run("slurm_gpu.sbatch", f"--logs={cloud.root}", "--", *command, expect=1, **job)
    assert cloud.calls("scontrol") == []
    out, _ = cloud.run("slurm_gpu.sbatch", "--dry_run", "--logs=l", "--", *WORDS)
    assert shlex.split(out) == [
        "srun", "--kill-on-bad-exit=1", "--output=l/JOB.0-%N-%t.out", "--error=l/JOB.0-%N-%t.log",
        *WORDS,
    ]  # fmt: skip


def test_sbatch_reads_every_option_of_the_file():
    lines = (SCRIPTS / "slurm_gpu.sbatch").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert len(options) == 9
    assert max(options) < first_command  # sbatch stops reading there


def test_the_image_has_what_it_copies_and_starts():
    text = (SCRIPTS / "Dockerfile").read_text()
    for line in re.findall("^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((REPOSITORY / source).exists() for source in sources)
    entry = json.loads(re.search("^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
    assert (REPOSITORY / entry[0]).stat().st_mode & 0o111


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_help_is_a_page_and_calls_nothing(cloud, script):
    if script.name == "flags.sh":
        pytest.skip("not called: the others read it")
    out, err = cloud.run(script.name, "--help")
    assert script.name in out
    assert out.endswith("\n")
    assert "shellcheck" not in out
    assert err == ""
    assert script.stat().st_mode & 0o111


def test_the_page_s_commands_are_understood(cloud):
    text = (REPOSITORY / "docs/scale.md").read_text().replace("\\\n", " ")
    pod = shlex.split(re.search('^POD="(.*)"$', text, re.MULTILINE)[1])
    lines = re.findall(r"^(?:sbatch --nodes=\d+ )?tpu_scripts/(\S+) (.*)$", text, re.MULTILINE)
    assert {script for script, _ in lines} == {path.name for path in ALL} - {
        "flags.sh",
        "on_host.sh",
    }
    for script, rest in lines:
        words = shlex.split(rest)
        words = pod + words[1:] if words[0] == "$POD" else words
        assert cloud.run(script, "--dry_run", *words)[0]
    assert not cloud.calls()


def test_shellcheck_finds_nothing():
    beside_python = os.path.dirname(sys.executable)
    shellcheck = shutil.which("shellcheck", path=f"{beside_python}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is missing: make setup-dev")
    done = subprocess.run([shellcheck, "-x", *ALL], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0
