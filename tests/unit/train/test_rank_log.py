"""The log of the ranks survives Snakemake, which deletes a job's log at each start."""

from pathlib import Path

from cogtune.train.rank_log import RankLog


def test_every_start_appends_and_the_job_gets_its_own_part(tmp_path: Path) -> None:
    path, job_log = tmp_path / "ranks.log", tmp_path / "job.log"
    for start in range(2):
        job_log.unlink(missing_ok=True)
        job_log.write_text("job\n")
        log = RankLog(path, job_log)
        log.copy()
        log.note(f"start {start}")
        log.copy()
        with path.open("a") as rank:
            rank.write(f"step of {start}\n")
        log.copy()
        log.copy()
        lines = job_log.read_text().splitlines()
        assert lines[0] == "job"
        assert lines[1].endswith(f" start {start}")
        assert lines[2:] == [f"step of {start}"]
    lines = path.read_text().splitlines()
    assert [lines[0][-7:], lines[1], lines[2][-7:], lines[3]] == ["start 0", "step of 0", "start 1", "step of 1"]


def test_without_a_log_of_the_job(tmp_path: Path) -> None:
    log = RankLog(tmp_path / "ranks.log", None)
    log.note("start")
    log.copy()
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.log"]
