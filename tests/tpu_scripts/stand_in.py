"""Plays gcloud, kubectl, srun and what else the scripts of tpu_scripts/ call, on one machine.

`conftest.py` puts this file on PATH under those names. Each call is recorded with its words; a
host of the queued resource is a folder, and `ssh` runs its line there as sshd does: by a shell.
"""

# Only these three: a watched run is some fifty calls, and imports are what one costs.
import json
import os
import sys

ROOT = os.environ["STAND_IN_ROOT"]
PLAY = f"{ROOT}/play.json"
HOSTS = [f"{ROOT}/hosts/{name}" for name in ("pod-w-0", "pod-w-1")]


def main():
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    with open(PLAY) as file:
        play = json.load(file)
    with open(f"{ROOT}/calls.jsonl", "a") as file:
        file.write(json.dumps([name, *words]) + "\n")
    sys.exit(globals()[name](words, play))


def save(play):
    with open(PLAY, "w") as file:
        json.dump(play, file)


def flag(words, name):
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), None)


def gcloud(words, play):
    verb, states = words[3], play["states"]
    if verb == "list":
        if play.get("unreachable"):
            print("ERROR: (gcloud) UNAVAILABLE", file=sys.stderr)
            return 1
        now = states.pop(0) if len(states) > 1 else states[0]
        save(play)
        print("" if now == "ABSENT" else now)
    elif verb == "create":
        if states != ["ABSENT"]:
            print("ERROR: (gcloud) ALREADY_EXISTS", file=sys.stderr)
            return 1
        save(play | {"states": play["created"]})
    elif verb == "delete":
        if states == ["ABSENT"]:
            print("ERROR: (gcloud) NOT_FOUND", file=sys.stderr)
            return 1
        save(play | {"states": ["DELETING", "ABSENT"]})
        for host in HOSTS:
            power_off(host)
    elif verb == "scp":
        for host in HOSTS:
            os.makedirs(host, exist_ok=True)
            with open(words[4], "rb") as source:
                data = source.read()
            with open(f"{host}/{words[5].partition(':')[2]}", "wb") as target:
                target.write(data)
    elif verb == "ssh":
        return ssh(words, play)
    return 0


def ssh(words, play):
    import subprocess

    line = flag(words, "command")
    if "on_host.sh status" in line:
        play["looks"] = play.get("looks", 0) + 1
        if play["looks"] in play.get("preempted_at_looks", []):
            play["states"] = ["SUSPENDING", "SUSPENDED"]
            for host in HOSTS:
                power_off(host)
        save(play)
    if play["states"][0] != "ACTIVE":
        print("ERROR: (gcloud) the TPU is not there", file=sys.stderr)
        return 255
    code = 0
    for host in HOSTS if flag(words, "worker") == "all" else HOSTS[:1]:
        os.makedirs(host, exist_ok=True)
        path = f"{ROOT}/host_bin:{os.environ['PATH']}"
        env = os.environ | {"HOME": host, "PATH": path, "STAND_IN_HOST": os.path.basename(host)}
        code = subprocess.run(["bash", "-c", line], cwd=host, env=env).returncode or code
    return code


def power_off(host):
    import contextlib
    import shutil

    with contextlib.suppress(OSError), open(f"{host}/llm_jax/runs/on_host/pid") as file:
        os.killpg(int(file.read()), 9)
    shutil.rmtree(host, ignore_errors=True)


def git(words, play):
    if "status" in words:
        print(play.get("uncommitted", ""), end="")
    elif "rev-parse" in words:
        print("abc1234")
    else:  # archive: what the tests are of, committed or not
        import subprocess

        archive = flag(words, "output")
        subprocess.run(["tar", "-czf", archive, "-C", words[1], "tpu_scripts"], check=True)


def python3(words, play):
    """On a host: pip and uv."""
    if words[:3] == ["-m", "uv", "venv"]:
        os.makedirs(".venv/bin")
        os.symlink(sys.executable, ".venv/bin/python")


def mountpoint(words, play):
    return 0 if play.get("mounted") else 1


def sudo(words, play):
    if words[0] == "mount":
        save(play | {"mounted": True})


def kubectl(words, play):
    if words[0] == "apply":
        with open(f"{ROOT}/manifest.yaml", "w") as file:
            file.write(sys.stdin.read())


def srun(words, play):
    """One task on each of two nodes."""
    import subprocess

    command = words[next(i for i, word in enumerate(words) if not word.startswith("--")) :]
    for node in ("node1", "node2"):
        name = flag(words, "output").replace("%N", node).replace("%t", "0")
        with open(name, "a") as file:
            code = subprocess.run(command, stdout=file).returncode
    return code


def scontrol(words, play):
    pass


if __name__ == "__main__":
    main()
