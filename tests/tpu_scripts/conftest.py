"""The scripts of tpu_scripts/ with stand-ins for the cloud's tools first on PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "tpu_scripts"
POD = ["--name=pod", "--project=my-project", "--zone=my-zone"]
ANYWHERE = ("gcloud", "git", "kubectl", "srun", "scontrol")
ON_HOSTS = ("python3", "mountpoint", "sudo")


class Cloud:
    """A folder that stands for a queued resource of two hosts, and the calls that were made."""

    def __init__(self, root: Path):
        self.root = root
        self.hosts = [root / "hosts" / name for name in ("pod-w-0", "pod-w-1")]
        stand_in = Path(__file__).with_name("stand_in.py").read_text()
        for folder, names in (("bin", ANYWHERE), ("host_bin", ON_HOSTS)):
            (root / folder).mkdir()
            for name in names:
                script = root / folder / name
                script.write_text(f"#!{sys.executable} -IS\n{stand_in}")
                script.chmod(0o755)
        hostname = root / "host_bin/hostname"
        hostname.write_text('#!/bin/sh\necho "$STAND_IN_HOST"\n')
        hostname.chmod(0o755)
        self.play(states=["ABSENT"], created=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])

    def play(self, **changes):
        """Sets the scene: the states that `list` tells one after the other, and the rest."""
        path = self.root / "play.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | changes))

    def run(self, script, *words, expect=0, **env):
        """Runs a script of tpu_scripts/; returns (stdout, stderr)."""
        env = os.environ | {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "STAND_IN_ROOT": str(self.root),
        } | env  # fmt: skip
        done = subprocess.run(
            ["bash", SCRIPTS / script, *map(str, words)],
            env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout, done.stderr

    def calls(self, name="gcloud"):
        """Returns the words of every call of a tool."""
        path = self.root / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]

    def verbs(self):
        """Returns what gcloud was asked to change, in order: create, delete, setup, start, stop."""
        verbs = []
        for words in self.calls():
            verb = words[3]
            if verb == "ssh":
                line = next(word for word in words if word.startswith("--command="))
                verb = line.partition("on_host.sh ")[2].split()[0]
            if verb not in ("list", "scp", "status"):
                verbs.append(verb)
        return verbs


@pytest.fixture
def cloud(tmp_path):
    cloud = Cloud(tmp_path)
    yield cloud
    if any(cloud.hosts[0].parent.glob("*")):  # what still runs on a host ends with it
        cloud.play(states=["ACTIVE"])
        cloud.run("delete.sh", *POD, "--poll=0")
