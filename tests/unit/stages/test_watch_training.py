"""What can be looked at while a training runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from cogtune.stages import watch_training
from cogtune.stages.job import Job
from cogtune.stages.watch_training import TrainingPage
from cogtune.work.inputs import TrainInput
from cogtune.work.results_folder import open_results
from cogtune.work.training_log import StepRow, TrainingLog
from tests.unit.stages.finished import Finished


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("watch")).fill()


@pytest.fixture
def job(finished: Finished, tmp_path: Path) -> Job[TrainInput]:
    job = replace(finished.job("train"), store=tmp_path / "store")
    log = TrainingLog(job.job_dir() / "log.jsonl", 0) if job.job_dir().mkdir(parents=True) is None else None
    assert log is not None
    for step in range(1, 41):
        log.add(StepRow(step=step, loss=1 / step, lr=1e-3, seconds=1.0, data_wait=0.0))
    log.add(StepRow(step=41, skipped="the loss is nan", clips=["a"], lr=1e-3, seconds=1.0, data_wait=0.0))
    return job


@pytest.mark.heavy
def test_the_page_and_its_links_are_there_from_the_start(
    job: Job[TrainInput], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    page = TrainingPage(job, job.job_dir() / "tensorboard")
    page.begin()
    assert (page.folder / "training.html").resolve() == page.path.resolve()
    assert "Training starts." in page.path.read_text()
    assert [record.message.count("loss curve:") for record in caplog.records] == [1]
    assert f"TensorBoard: tensorboard --logdir {page.folder}/tensorboard" in caplog.text
    assert (page.folder / "tensorboard").resolve() == (job.job_dir() / "tensorboard").resolve()


@pytest.mark.heavy
def test_experiments_that_share_a_training_all_link_to_it(job: Job[TrainInput]) -> None:
    """The job has the run file of one of them only."""
    for name, key in (("first", job.key), ("second", job.key), ("elsewhere", "0123456789ab")):
        open_results(job.results, job.store, name, key)
    page = TrainingPage(job)
    page.begin()
    for name in ("first", "second"):
        folder = job.results / name
        assert (folder / "checkpoints").resolve() == (job.job_dir() / "checkpoints").resolve()
        assert "Training starts." in (folder / "training.html").read_text()
    assert not (job.results / "elsewhere/checkpoints").is_symlink()


@pytest.mark.heavy
def test_the_chart_is_renewed_seldom_and_reloads_until_the_end(
    job: Job[TrainInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(watch_training.time, "monotonic", lambda: now[0])
    page = TrainingPage(job)
    page.begin()
    drawn = []
    for step in range(1, 41):
        now[0] += 1.0
        page.advance(step, 41)
        drawn.append("<svg" in page.path.read_text() and f"step {step} of" in page.path.read_text())
    assert [step for step, one in enumerate(drawn, 1) if one] == [10, 40]
    assert 'class="renew"' in page.path.read_text()
    page.end()
    assert 'class="renew"' not in page.path.read_text()
    assert "Training stopped after step 40 of 41." in page.path.read_text()
    assert "1 steps were skipped." in page.path.read_text()


@pytest.mark.heavy
def test_a_short_training_draws_nothing(job: Job[TrainInput]) -> None:
    page = TrainingPage(job)
    page.begin()
    page.advance(3, 40)
    page.end()
    assert "<svg" not in page.path.read_text()
    assert "Training stopped after step 3 of 40." in page.path.read_text()


@pytest.mark.heavy
def test_a_page_that_cannot_be_written_stops_nothing(
    job: Job[TrainInput], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch_training, "write_text", full)
    page = TrainingPage(job)
    page.begin()
    page.advance(1, 2)
    page.end()
    assert "no page with the loss" in caplog.text
