"""What the train stage decides before any rank starts."""

from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.stages import train
from tests.unit.stages.finished import Finished


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("train")).fill()


def test_finished_work_is_reused(finished: Finished) -> None:
    receipt = train.run(finished.job("train"))
    assert (receipt["made"], receipt["reused"]) == (0, 1)
    assert receipt["loss_last"] == 0.5


def test_the_ranks_are_told_the_pairs_of_each_split(finished: Finished) -> None:
    plan = train.plan_of(finished.job("train"))
    ids = {split: [[r.clip, r.caption_id] for r in finished.rows if r.split == split] for split in ("train", "valid")}
    assert sorted(plan.pairs) == sorted(ids["train"])
    assert plan.validation_pairs == ids["valid"]
    assert plan.folder == str(finished.job("train").job_dir())


def test_clips_that_preprocess_rejected_are_left_out(finished: Finished) -> None:
    job = finished.job("train")
    shard = next(job.items_dir("latents").glob("*.safetensors"))
    hidden, index = Path(f"{shard}.hidden"), job.items_dir("latents") / "index.json"
    shard.rename(hidden)
    index.unlink(missing_ok=True)
    try:
        with pytest.raises(UserError, match="no accepted clip"):
            train.plan_of(job)
    finally:
        hidden.rename(shard)
