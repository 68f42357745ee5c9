"""Which jobs in Slurm's queue an earlier Snakemake of a directory submitted."""

import stat
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime.submitted_jobs import SubmittedJob, await_submitted_jobs, message, parse_queue, submitted_jobs


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A stand-in for squeue, first on PATH."""
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_only_jobs_of_this_directory_that_snakemake_submitted(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    lines = [
        f"7|RUNNING|None|rule_train_wildcards_60ba18619a32|{tmp_path}",
        f"8|PENDING|launch failed requeued held|rule_latents_wildcards_3e827800e98a|{tmp_path}/link",
        f"9|RUNNING|None|rule_train_wildcards_60ba18619a32|{tmp_path}/other",
        f"10|RUNNING|None|(null)|{tmp_path}",
        f"11|RUNNING|None|my run of snakemake|{tmp_path}",
        "",
    ]
    assert parse_queue("\n".join(lines), tmp_path) == [
        SubmittedJob("7", "train 60ba18619a32", "RUNNING"),
        SubmittedJob("8", "latents 3e827800e98a", "PENDING", "launch failed requeued held"),
    ]


def test_a_name_of_a_folder_may_hold_anything(tmp_path: Path) -> None:
    folder = tmp_path / "a|b %j 'c' $d"
    folder.mkdir()
    (job,) = parse_queue(f"7|RUNNING|None|rule_report_wildcards_my.run_60ba18619a32|{folder}", folder)
    assert job.name == "report my.run_60ba18619a32"


def test_a_held_job_needs_somebody() -> None:
    jobs = [
        SubmittedJob("7", "train 60ba18619a32", "PENDING", "JobHeldUser"),
        SubmittedJob("8", "train 3e827800e98a", "PENDING", "BeginTime"),
    ]
    assert "7 (train 60ba18619a32, PENDING, JobHeldUser), 8 (train 3e827800e98a, PENDING, BeginTime)" in message(jobs)
    assert message(jobs).endswith("A held job does not start by itself: scontrol release 7")
    assert "release" not in message(jobs[1:])


def test_defaults_of_the_user_hide_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"7|PENDING|None|rule_train_wildcards_60ba18619a32|{tmp_path}"
    squeue(tmp_path, monkeypatch, f'[ -n "$SQUEUE_STATES" ] || echo "{line}"')
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    assert len(submitted_jobs(tmp_path)) == 1


def test_without_slurm_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submitted_jobs(tmp_path) == []


def test_a_queue_that_does_not_answer_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        submitted_jobs(tmp_path)


def test_waits_and_names_the_jobs_and_how_to_end_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    count = tmp_path / "count"
    line = f"7|RUNNING|None|rule_train_wildcards_60ba18619a32|{tmp_path}"
    away = "echo 'Unable to contact slurm controller' >&2; exit 1"
    squeue(
        tmp_path,
        monkeypatch,
        f'echo x >> {count}; n=$(wc -l < {count}); [ $n != 3 ] || {{ {away}; }}; [ $n -gt 3 ] || echo "{line}"',
    )
    monkeypatch.setattr("cogtune.runtime.submitted_jobs._POLL_SECONDS", (0.05, 0.1))
    await_submitted_jobs(tmp_path)
    assert count.read_text().count("x") == 4
    assert caplog.messages == [
        message([SubmittedJob("7", "train 60ba18619a32", "RUNNING")]),
        "`squeue` failed (Unable to contact slurm controller); still waiting",
    ]
    assert "7 (train 60ba18619a32, RUNNING)" in caplog.text
    assert "scancel 7" in caplog.text
