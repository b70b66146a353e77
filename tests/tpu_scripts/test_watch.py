"""What watch.sh does when machines are taken away, or a command fails."""

import pytest

from tests.tpu_scripts.test_pod import MADE, lives, planned

WATCHED = [*MADE, "--spot", "--share=10.0.0.2:/share", "--max_failures=1"]


def test_a_preempted_run_is_made_again_from_nothing_and_ends(cloud):
    # Looks: nothing is set up; it runs; it is taken away.
    cloud.play(preempted_at_looks=[3])
    command = planned(cloud, "--workdir=/mnt/shared/a b", all=["hang", "end"])
    cloud.run("watch.sh", *WATCHED, "--", *command)
    assert cloud.verbs() == ["create", "setup", "start", "delete", "create", "setup", "start"]
    assert lives(cloud) == {
        host: [["--workdir=/mnt/shared/a b"]] * 2 for host in ("pod-w-0", "pod-w-1")
    }
    creates = [words for words in cloud.calls() if words[3] == "create"]
    assert creates[0] == creates[1]
    assert "--spot" in creates[0]


@pytest.mark.slow
def test_preemptions_do_not_add_up_to_failures(cloud):
    # A look at hosts that are going away is a failure each time; new machines start at none.
    cloud.play(preempted_at_looks=[3, 6])
    cloud.run("watch.sh", *WATCHED, "--", *planned(cloud, all=["hang", "hang", "end"]))
    assert cloud.verbs().count("create") == 3
    assert [len(each) for each in lives(cloud).values()] == [3, 3]


@pytest.mark.slow
def test_a_failed_host_makes_all_start_again_together(cloud):
    command = planned(cloud, pod_w_0=["hang", "end"], pod_w_1=["fail", "end"])
    _, err = cloud.run("watch.sh", *WATCHED, "--", *command)
    assert "pod-w-1 exited 1" in err
    assert cloud.verbs() == ["create", "setup", "start", "stop", "start"]
    assert [len(each) for each in lives(cloud).values()] == [2, 2]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_a_failure(cloud):
    command = planned(cloud, pod_w_0=["leave", "end"], pod_w_1=["leave", "end"])
    cloud.run("watch.sh", *WATCHED, "--max_failures=0", "--", *command)
    assert [len(each) for each in lives(cloud).values()] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("act", "code", "times"), [("fail", 1, 2), ("refuse", 2, 1)])
def test_a_command_that_never_works_is_given_up(cloud, act, code, times):
    command = planned(cloud, all=[act])
    _, err = cloud.run("watch.sh", *WATCHED, "--", *command, expect=code)
    assert f"pod-w-0 exited {code}" in err
    assert [len(each) for each in lives(cloud).values()] == [times, times]


def test_a_cloud_that_does_not_answer_makes_nothing_twice(cloud):
    cloud.play(unreachable=True)
    _, err = cloud.run("watch.sh", *WATCHED, "--", "python", "x.py", expect=1)
    assert "the state of pod cannot be read" in err
    assert cloud.verbs() == []


@pytest.mark.slow
def test_a_request_that_fails_is_deleted_and_asked_for_again(cloud):
    cloud.play(created=["PROVISIONING", "FAILED"])
    cloud.run("watch.sh", *WATCHED, "--", "python", "x.py", expect=1)
    assert [verb for verb in cloud.verbs() if verb != "describe"] == ["create", "delete", "create"]
