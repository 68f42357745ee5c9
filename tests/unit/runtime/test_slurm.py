"""A stopped job requeues itself if Slurm takes its machine, and only then. A stand-in answers for scontrol and sacct."""

import os
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.errors import UserError
from cogtune.runtime import slurm
from cogtune.runtime.oom import oom_kills

SHOWN = (
    "JobId=12 JobName=a JobState=FAILED NumTasks=9 UserId=x UserId=root(0) GroupId=root(0) Priority=1 JobState={state} "
    "Reason=None Requeue=1 Restarts={restarts} RunTime=00:01:00 PreemptEligibleTime=2026-11-26T04:00:00 "
    "PreemptTime={preempted} NodeList=n[1-2] NumNodes=2 NumCPUs=8 NumTasks=4 CPUs/Task=1 Command=/tmp/a b JobState-like=x "
    "WorkDir=/tmp/c NumNodes=7 Comment=Restarts=77 JobState=CANCELLED "
)
"""With names of jobs, folders and comments that look like fields."""
STATES = (
    "PENDING", "CONFIGURING", "COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED",
    "OUT_OF_MEMORY", "SUSPENDED", "STOPPED", "REQUEUED", "SIGNALING", "STAGE_OUT", "BOOT_FAIL", "DEADLINE",
)  # fmt: skip


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-in: `shown` is what it prints, `calls` what it was called with, `fails` makes it fail."""
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'if [ "$1" = requeue ] && [ -e {tmp_path}/fails ]; then echo "Job is held" >&2; exit 1; fi\n'
        f'if [ -s {tmp_path}/away ]; then sed -i 1d {tmp_path}/away; echo "Unable to contact slurm controller" >&2; exit 1; fi\n'
        f'[ "$1" = show ] && cat {tmp_path}/shown\nexit 0\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    show(tmp_path)
    return tmp_path


def show(folder: Path, state: str = "RUNNING", restarts: int = 0, preempted: str = "None") -> None:
    (folder / "shown").write_text(SHOWN.format(state=state, restarts=restarts, preempted=preempted) + "\n")


def requeued(folder: Path) -> bool:
    return "requeue 12" in (folder / "calls").read_text().splitlines()


def test_the_job_is_what_scontrol_shows(scontrol: Path) -> None:
    assert slurm.this_job() == slurm.SlurmJob("12", "RUNNING", 2, 4, 0, False, "n[1-2]")
    assert (scontrol / "calls").read_text() == "show job -o 12\n"


def test_a_running_job_that_made_progress_is_requeued(scontrol: Path) -> None:
    message = slurm.requeue_if_taken(True, 100)
    assert requeued(scontrol)
    assert message is not None
    assert "restart 1 of at most 100" in message


@pytest.mark.parametrize("state", STATES)
def test_no_other_state_is_requeued(scontrol: Path, state: str) -> None:
    show(scontrol, state, preempted="2026-11-26T04:01:00")
    message = slurm.requeue_if_taken(True, 100)
    assert not requeued(scontrol)
    assert message is not None
    assert ("was requeued by Slurm" if state == "PENDING" else state) in message


TAKEN = "2026-11-26T04:01:00"


@pytest.mark.parametrize(
    ("progress", "preempted", "restarts", "requeue", "word"),
    [
        (True, "None", 0, True, "time limit"),
        (False, "None", 0, False, "no progress"),
        (True, TAKEN, 3, True, "pre-empted"),
        (False, TAKEN, 3, True, "pre-empted"),
        (True, TAKEN, 100, False, "restarted 100 times"),
        (False, "None", 100, False, "restarted 100 times"),
        (True, "None", 99, True, "restart 100 of at most 100"),
    ],
)
def test_the_decision_and_its_reason(
    scontrol: Path, progress: bool, preempted: str, restarts: int, requeue: bool, word: str
) -> None:
    show(scontrol, restarts=restarts, preempted=preempted)
    message = slurm.requeue_if_taken(progress, 100)
    assert requeued(scontrol) == requeue
    assert message is not None
    assert word in message


def test_a_job_that_slurm_restarts_again_and_again_ends(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm requeues a job that it had to kill without asking it, for ever if no start reaches a checkpoint."""
    show(scontrol, restarts=3)
    slurm.check_restarts(3)
    with pytest.raises(UserError, match=r"restarted 3 times \(limit 2: --max-restarts"):
        slurm.check_restarts(2)
    monkeypatch.chdir(scontrol)
    assert main(["train", "--base", "none.yaml", "--max-restarts", "2", "--log", "train.log"]) == 1
    assert "restarted 3 times (limit 2" in (scontrol / "train.log").read_text()
    assert main(["scan", "--base", "none.yaml", "--max-restarts", "2"]) == 2, "it reads the config"


def test_a_refused_requeue_says_what_slurm_said(scontrol: Path) -> None:
    (scontrol / "fails").touch()
    message = slurm.requeue_if_taken(True, 100)
    assert message is not None
    assert "could not be requeued (Job is held)" in message


def test_a_task_of_an_array_requeues_only_itself(scontrol: Path) -> None:
    """Its number may be that of the array: for Slurm's commands that means all tasks, and it is shown with them."""
    array = SHOWN.replace("JobId=12 ", "JobId={number} ArrayJobId=12 ArrayTaskId={task} ")
    lines = [
        array.format(number=number, task=task, state=state, restarts=number, preempted="None")
        for number, task, state in ((13, 0, "COMPLETED"), (12, 2, "RUNNING"), (14, 1, "CANCELLED"))
    ]
    (scontrol / "shown").write_text("\n".join(lines) + "\n")
    assert slurm.this_job() == slurm.SlurmJob("12_2", "RUNNING", 2, 4, 12, False, "n[1-2]")
    message = slurm.requeue_if_taken(True, 100)
    assert message is not None
    assert "Slurm job 12_2" in message
    assert slurm.requeue_behind("99") is None
    calls = [line for line in (scontrol / "calls").read_text().splitlines() if not line.startswith("show")]
    assert calls == ["requeue 12_2", "requeue 12_2", "update JobId=12_2 Dependency=afterany:99"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_controller_that_does_not_answer_is_asked_again(
    scontrol: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("cogtune.runtime.slurm._AGAIN_SECONDS", 0.01)
    (scontrol / "away").write_text("x\n" * times)
    assert slurm.this_job() == slurm.SlurmJob("12", "RUNNING", 2, 4, 0, False, "n[1-2]")
    (scontrol / "away").write_text("x\n" * times)
    assert "restart 1 of" in str(slurm.requeue_if_taken(True, 100))
    assert requeued(scontrol)


def test_a_controller_that_stays_away_is_an_error(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogtune.runtime.slurm._AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("cogtune.runtime.slurm._ANSWER_SECONDS", 0.1)
    (scontrol / "away").write_text("x\n" * 1000)
    with pytest.raises(
        UserError, match=r"`scontrol show job 12` failed \(Unable to contact .*run .* when Slurm answers"
    ):
        slurm.this_job()


def test_outside_slurm_nothing_is_called(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm.requeue_if_taken(True, 100) is None
    assert slurm.this_job() is None
    assert not (scontrol / "calls").exists()


@pytest.mark.parametrize("answer", ["", "slurm_load_jobs error: Invalid job id specified"])
def test_an_answer_without_a_state_is_an_error(scontrol: Path, answer: str) -> None:
    (scontrol / "shown").write_text(answer)
    with pytest.raises(UserError, match="expected JobId=12 … JobState="):
        slurm.this_job()
    message = slurm.requeue_if_taken(True, 100)
    assert message is not None
    assert message.startswith("not requeued: ")
    assert not requeued(scontrol)


def test_a_shell_that_a_job_left_behind_is_not_in_a_job(scontrol: Path) -> None:
    (scontrol / "scontrol").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n"
    )
    with pytest.raises(UserError, match="unset SLURM_JOB_ID"):
        slurm.this_job()


def test_a_job_without_scontrol_is_not_requeued(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scontrol / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(scontrol))
    message = slurm.requeue_if_taken(True, 100)
    assert message is not None
    assert "scontrol" in message
    with pytest.raises(UserError, match="also in a container"):
        slurm.this_job()


@pytest.mark.parametrize(
    ("printed", "answer"),
    [
        ("12|RUNNING\n12.0|OUT_OF_MEMORY\n", True),
        ("12|OUT_OF_MEMORY\n", True),
        ("12|RUNNING\n12.batch|RUNNING\n", False),
        ("12|RUNNING\n13|OUT_OF_MEMORY\n13.0|OUT_OF_MEMORY\n", False),  # another task of the array
    ],
)
def test_accounting_says_whether_memory_ran_out(scontrol: Path, printed: str, answer: bool) -> None:
    (scontrol / "sacct").write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    (scontrol / "sacct").chmod(0o755)
    assert slurm.out_of_memory("12") is answer
    (scontrol / "sacct").write_text("#!/bin/sh\necho 'accounting storage is disabled' >&2\nexit 1\n")
    assert slurm.out_of_memory("12") is None


@pytest.mark.parametrize(
    ("membership", "file", "text", "count"),
    [
        ("0::/job_12/step_0\n", "job_12/step_0/memory.events", "low 0\nmax 3\noom 2\noom_kill 2\n", 2),
        (
            "5:memory:/slurm/job_12\n2:cpu:/x\n",
            "memory/slurm/job_12/memory.oom_control",
            "under_oom 0\noom_kill 1\n",
            1,
        ),
        ("0::/job_12\n", "elsewhere", "oom_kill 2\n", None),
        ("2:cpu:/x\n", "elsewhere", "", None),
        ("0::/\n", "memory.events", "nonsense\n", None),
    ],
)
def test_kills_for_memory_are_counted_by_the_cgroup(
    tmp_path: Path, membership: str, file: str, text: str, count: int | None
) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert oom_kills(membership, tmp_path) == count
