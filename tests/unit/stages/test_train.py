"""What the train stage decides before any rank starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cogtune.data.rows import Pair, Rejected
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.errors import UserError
from cogtune.stages import train
from cogtune.work.batches import BatchMemo
from tests.unit.stages.finished import Finished


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("train")).fill()


@pytest.mark.heavy
def test_finished_work_is_reused(finished: Finished) -> None:
    counts = train.run(finished.job("train"))
    assert (counts.made, counts.reused) == (0, 1)
    assert counts.loss_last == 0.5


@pytest.mark.heavy
def test_the_ranks_are_told_the_pairs_of_each_split(finished: Finished) -> None:
    plan = train.plan_of(finished.job("train"))
    pairs = {
        split: {Pair(row.clip, row.caption_id) for row in finished.rows if row.split == split}
        for split in ("train", "valid")
    }
    assert set(plan.pairs) == pairs["train"]
    assert set(plan.validation_sets["valid"]) == pairs["valid"]
    assert plan.folder == str(finished.job("train").job_dir())


@contextmanager
def without_rows(folder: Path) -> Iterator[None]:
    """While inside, the folder of rows is empty."""
    shard = next(folder.glob("*.safetensors"))
    hidden = Path(f"{shard}.hidden")
    shard.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(shard)


@pytest.mark.parametrize("stage", ["latents", "text", "preprocess"])
def test_a_missing_row_stops_it_with_the_command(finished: Finished, stage: str) -> None:
    job, key = finished.job("train"), finished.slices[stage].key
    with (
        without_rows(finished.job(stage).items_dir()),
        pytest.raises(
            UserError, match=rf"{stage}/.*no row .*`cogtune {stage} --slice \S*{key}.json --run \S+` to compute"
        ),
    ):
        train.plan_of(job)


def test_clips_that_preprocess_rejected_are_left_out(finished: Finished) -> None:
    job, folder = finished.job("train"), finished.job("preprocess").items_dir()
    plan = ShardReader(folder).meta(finished.rows[0].clip)
    for chosen in ([finished.rows[0]], finished.rows):
        with without_rows(folder):
            with ShardWriter(folder) as writer:
                for row in finished.rows:
                    if row in chosen:
                        Rejected("too short").add(writer, row.clip)
                    else:
                        writer.add(row.clip, {}, plan)
            try:
                if chosen == finished.rows:
                    with pytest.raises(UserError, match="no clip was accepted"):
                        train.plan_of(job)
                else:
                    assert finished.rows[0].clip not in {pair.clip for pair in train.plan_of(job).pairs}
            finally:
                next(folder.glob("*.safetensors")).unlink()


def test_a_training_that_starts_notes_its_global_batch(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks are not started; without `args.global_batch_size` the next resolution finds what this one began with."""
    job = finished.job("train")
    volatile = replace(job.slice.volatile, batch_memo="0123456789ab")
    job = replace(job, slice=replace(job.slice, volatile=volatile))
    monkeypatch.setattr(train, "run_ranks", lambda *_: False)
    with pytest.raises(SystemExit):
        train._train(job)
    clips = job.input.global_batch
    assert BatchMemo(job.store, "0123456789ab").read() == (clips, job.key)
