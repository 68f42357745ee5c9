"""What the train stage decides before any rank starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cogtune.config import cross_checks, deepspeed_limits
from cogtune.data.rows import Pair, Rejected
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.errors import UserError
from cogtune.plan.remedies import savings
from cogtune.plan.stage_costs import TrainCost
from cogtune.runtime import machines
from cogtune.stages import train, train_costs
from cogtune.stages.job import Job
from cogtune.stages.train_costs import costs_of
from cogtune.train.ends import RankError, RankMemoryError
from cogtune.work.batches import BatchMemo
from cogtune.work.inputs import TrainInput
from cogtune.work.load import load_config
from cogtune.work.stage_input import read_input
from tests.unit.stages.finished import TINY, Finished


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


def out_of_memory(memory: str, monkeypatch: pytest.MonkeyPatch, job: Job[TrainInput]) -> str:
    """The message of the stage when rank 1 runs out of memory."""
    error = RankError(1, 0.0, "out of memory", True, "Traceback", memory, "it requested 20.00 GiB more")

    def fail(*_: object) -> bool:
        raise RankMemoryError(error)

    monkeypatch.setattr(train, "run_ranks", fail)
    with pytest.raises(UserError) as caught:
        train._train(job)
    return str(caught.value)


def test_out_of_memory_names_settings_by_what_they_save(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are the cost model's, as `cogtune plan` has them."""
    job = finished.job("train")
    first, *ways, last = out_of_memory("CPU", monkeypatch, job).splitlines()
    options = savings("train", TrainCost(costs_of(job)), job.ranks)
    assert first.startswith(
        "rank 1 of training is out of memory (it requested 20.00 GiB more). By the cost model a rank needs"
    )
    texts = [option.remedy.text for option in options]
    assert [way.strip().partition(": ")[0] for way in ways] == [text for text in texts if "offload" not in text]
    assert [option.bytes for option in options] == sorted(option.bytes for option in options)
    assert "another training" in next(way for way in ways if "max_num_frames" in way)
    assert last.endswith("then run the same command again: the training resumes from its last checkpoint")


def test_host_memory_on_a_machine_with_gpus_is_another_matter(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = machines.find("H100")
    assert device is not None
    monkeypatch.setattr(train_costs, "here", lambda: machines.Machine(device))
    message = out_of_memory("CPU", monkeypatch, finished.job("train"))
    assert "of CPU memory together: use fewer ranks on this machine" in message
    message = out_of_memory("GPU", monkeypatch, finished.job("train"))
    assert message.startswith(
        "rank 1 of training is out of GPU memory (it requested 20.00 GiB more). By the cost model a rank"
    )
    assert "libraries" not in message
    assert "offload_optimizer.device=cpu: " in message


OWN = "/store/train/0123456789ab"
TRACKED = {
    "": (f"{OWN}/tensorboard", None, None),
    "deepspeed.tensorboard.enabled=false": (None, None, None),
    "deepspeed.tensorboard.enabled=true": (f"{OWN}/tensorboard", None, None),
    "args.summary_dir=/curves": ("/curves/mine-0123456789ab", None, None),
    "args.summary_dir=/curves deepspeed.tensorboard.enabled=true deepspeed.tensorboard.output_path=/boards "
    "deepspeed.tensorboard.job_name=job": ("/boards/job/mine-0123456789ab", None, None),
    "deepspeed.csv_monitor.enabled=true": (f"{OWN}/tensorboard", f"{OWN}/csv", None),
    "deepspeed.csv_monitor.enabled=true deepspeed.csv_monitor.output_path=/tables": (
        f"{OWN}/tensorboard", "/tables/mine-0123456789ab", None,
    ),
    "args.wandb=true": (f"{OWN}/tensorboard", None, ("default_project", None, None)),
    "args.wandb=true args.wandb_project_name=p args.wandb_project_entity=t": (
        f"{OWN}/tensorboard", None, ("p", "t", None),
    ),
    "args.wandb_project_name=p deepspeed.wandb.enabled=true deepspeed.wandb.group=g deepspeed.wandb.team=t": (
        f"{OWN}/tensorboard", None, ("p", "t", "g"),
    ),
    "deepspeed.wandb.enabled=true deepspeed.wandb.project=q": (f"{OWN}/tensorboard", None, ("q", None, None)),
}  # fmt: skip


@pytest.mark.parametrize("overrides", TRACKED)
def test_the_keys_of_upstream_and_deepspeed_say_where_curves_go(
    overrides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_checks, "find_spec", lambda name: object())
    monkeypatch.setattr(deepspeed_limits, "find_spec", lambda name: object())
    values = load_config([TINY], ["args.global_batch_size=2", *overrides.split()], check_files=False).values
    job = SimpleNamespace(
        input=read_input(TrainInput, values), key="0123456789ab", experiment="mine", job_dir=lambda: Path(OWN)
    )
    tracking = train.tracking_of(job)  # pyright: ignore[reportArgumentType]
    wandb = tracking.wandb and (tracking.wandb.project, tracking.wandb.team, tracking.wandb.group)
    assert (tracking.tensorboard, tracking.csv, wandb) == TRACKED[overrides]


def test_without_tensorboard_one_line_says_how_to_get_it(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(train, "has_tensorboard", lambda: False)
    monkeypatch.setattr(train, "run_ranks", lambda *_: False)
    with caplog.at_level("INFO"), pytest.raises(SystemExit):
        train._train(finished.job("train"))
    assert [text for text in caplog.messages if "TensorBoard" in text] == [
        "[train] no files for TensorBoard, which is not installed: pip install tensorboard"
    ]
