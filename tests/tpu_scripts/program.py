"""The command that the tests run on hosts: `program.py FOLDER WORDS ...`.

It notes its words in FOLDER/HOST.jsonl, a line each time, and does what FOLDER/plan.json has for
this host and time (the last, for any later): end, fail, refuse, leave (unfinished), hang (until
SIGTERM, which makes it save and leave as training does; a second one kills it), stubborn.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder, host = Path(sys.argv[1]), os.environ["STAND_IN_HOST"]
with open(folder / f"{host}.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[2:]) + "\n")
life = len((folder / f"{host}.jsonl").read_text().splitlines())
plan = json.loads((folder / "plan.json").read_text())
acts = plan.get(host, plan.get("all"))
act = acts[min(life, len(acts)) - 1]


def leave(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.2)  # saving
    print(json.dumps({"finished": False}), flush=True)
    os._exit(0)


if act == "leave":
    leave()
print("step 1", file=sys.stderr, flush=True)
if act in ("hang", "stubborn"):
    signal.signal(signal.SIGTERM, leave if act == "hang" else signal.SIG_IGN)
    (folder / f"{host}.ready").touch()
    time.sleep(120)
if act == "end":
    print(json.dumps({"finished": True}))
sys.exit({"end": 0, "fail": 1, "refuse": 2}[act])
