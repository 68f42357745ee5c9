"""What a plan says before a run, after it, and after every kind of edit."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogtune.__main__ import main
from cogtune.commands import store_verify
from cogtune.commands.plan import survey_all
from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.plan.survey import CACHED, PARTIAL, STALE, UP_TO_DATE
from cogtune.runtime.atomic import write_json
from cogtune.work.batches import BatchMemo
from cogtune.work.machine_limits import has_gpu, refused_here
from cogtune.work.stages import STAGES
from tests.unit.plan.world import CPU, GPU, World

pytestmark = pytest.mark.heavy

WORKED = [name for name, stage in STAGES.items() if name not in ("scan", "report") and not stage.when]
LR = ("lr: 0.001", "lr: 0.002")


def test_before_any_run(world: World) -> None:
    steps = world.steps()
    stages = [name for name, stage in STAGES.items() if not stage.when]
    assert {name: step.state for name, step in steps.items()} == dict.fromkeys(stages, STALE) | {"scan": UP_TO_DATE}
    assert all([reason.text for reason in steps[stage].why] == ["never run"] for stage in WORKED)
    assert {name: step.work.todo for name, step in steps.items()} == {
        "scan": 0, "preprocess": 5, "latents": 5, "text": 5, "train": 6, "export": 1, "sample": 20, "evaluate": 5,
        "report": 1,
    }  # fmt: skip
    assert all(step.estimate is not None and step.estimate.basis == "modelled" for step in steps.values() if step.runs)


def test_a_plan_decides_nothing(world: World) -> None:
    """No slice, and no global batch: with more ranks later, the batch is not that of the machine that planned."""
    world.edit("  global_batch_size: 2\n", "")
    assert world.steps()["train"].runs
    assert not (world.store / "slices").exists()
    world.ranks(8)
    assert world.batch() == 8


def test_the_global_batch_is_decided_when_a_training_starts_and_told(world: World) -> None:
    """Resolving a config, for a dry run or for a stage before train, leaves it open; the training's memo decides."""
    world.edit("  global_batch_size: 2\n", "")
    world.run(until="text")
    assert world.batch() == 2
    world.ranks(4)
    assert world.batch() == 4
    (note,) = world.steps()["train"].notes
    assert note.startswith("4 clips a step = 1 x 1 accumulation x 4 ranks (args.global_batch_size is not set")
    part = world.run(until="train")["train"]
    BatchMemo(world.store, part.volatile.batch_memo or "").write(4, part.key)
    world.ranks(2)
    assert world.batch() == 4
    world.ranks(3)
    assert world.batch() == 4, "a finished training can be sampled with any number of ranks"
    final = world.store / "train" / part.key / "final"
    final.rename(final.with_name("hidden"))
    with pytest.raises(
        ConfigError, match=rf"4 is not a multiple of 3, the number of ranks; .*as at the start of training {part.key}"
    ):
        world.batch()
    final.with_name("hidden").rename(final)
    world.ranks(2)
    world.edit("lr: 0.001", "lr: 0.002")
    assert world.batch() == 2, "another training"
    world.edit("lr: 0.002", "lr: 0.001")
    shutil.rmtree(world.store / "train" / part.key)
    assert world.batch() == 2, "its training is gone"


def test_a_batch_that_the_config_names_is_told_with_the_key(world: World) -> None:
    assert world.steps()["train"].notes == ["2 clips a step = 1 x 1 accumulation x 2 ranks (args.global_batch_size)"]


def test_a_memo_of_an_older_version_still_decides(world: World) -> None:
    world.edit("  global_batch_size: 2\n", "")
    memo = BatchMemo(world.store, world.slices()["train"].volatile.batch_memo or "")
    write_json(memo.path, {"global_batch_size": 4})
    assert world.batch() == 4
    (note,) = world.steps()["train"].notes
    assert note == (
        "4 clips a step = 1 x 2 accumulation x 2 ranks (as at the start of training of this config; "
        "args.global_batch_size overrides it)"
    )


def test_after_a_run_and_after_putting_an_edit_back(world: World) -> None:
    world.run()
    assert set(world.states().values()) == {UP_TO_DATE}
    world.edit(*LR)
    assert world.states()["train"] == STALE
    world.edit(*reversed(LR))
    assert set(world.states().values()) == {UP_TO_DATE}


def test_a_learning_rate(world: World) -> None:
    world.run()
    world.edit(*LR)
    steps, line = (
        world.steps(),
        world.config.read_text()
        .split("\n")
        .index("    params: {lr: 0.002, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 1e-4}")
        + 1,
    )
    (reason,) = steps["train"].why
    assert reason.text == f"deepspeed.optimizer.params.lr 0.001 → 0.002 ({world.config}:{line})"
    assert (reason.key, reason.before, reason.after) == ("deepspeed.optimizer.params.lr", 0.001, 0.002)
    for stage in ("export", "sample", "evaluate", "report"):
        assert [one.text for one in steps[stage].why] == ["because train is stale"]
    for stage in ("scan", "preprocess", "latents", "text"):
        assert steps[stage].state == UP_TO_DATE


def test_a_run_that_was_published_before_another_config(world: World) -> None:
    """A, B, then A again: A's results are in the store, and only have to be shown."""
    world.run()
    world.edit(*LR)
    world.run()
    world.edit(*reversed(LR))
    steps = world.steps()
    assert {name for name, step in steps.items() if step.runs} == {"report"}
    assert "deepspeed.optimizer.params.lr 0.002 → 0.001" in steps["report"].why[0].text


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda world: world.clip("new", "another caption"),
            {"preprocess": ["1 new clip"], "latents": ["1 new clip"], "text": ["1 new caption"], "train": ["1 new clip"]},
        ),
        (
            lambda world: world.clip("clip0", "rewritten"),
            {"text": ["1 changed caption"], "train": ["1 changed caption"]},
        ),
        (
            lambda world: [(world.root / f"data/train/{name}").unlink() for name in ("videos/clip1.mp4", "labels/clip1.txt")],
            {"train": ["1 removed clip"]},
        ),
        (
            lambda world: world.weights(1),
            {"latents": ["model.first_stage_config.params.ckpt_path: content changed (assets/3d-vae.pt)"],
             "train": ["because latents is stale"]},
        ),
    ],
    ids=["new clip", "caption", "removed clip", "weights"],
)  # fmt: skip
def test_data_and_weights(world: World, edit: Callable[..., Any], expected: dict[str, list[str]]) -> None:
    world.run()
    edit(world)
    steps = world.steps()
    early = ("preprocess", "latents", "text", "train")
    assert {name: [r.text for r in steps[name].why] for name in early if steps[name].state == STALE} == expected
    if "preprocess" in expected:
        assert (steps["latents"].work.todo, steps["latents"].work.total) == (1, 6)


def test_a_new_clip_for_a_config_that_was_published_before_another(world: World) -> None:
    """The rows that are there are an old job's, not those of a run that was cut off."""
    world.run()
    world.weights(1)
    world.run()
    world.weights(0)
    world.clip("new", "another caption")
    step = world.steps()["latents"]
    assert (step.state, [reason.text for reason in step.why]) == (STALE, ["1 new clip"])


def test_a_removed_clip_leaves_jobs_that_only_write_receipts(world: World) -> None:
    world.run()
    for name in ("videos/clip1.mp4", "labels/clip1.txt"):
        (world.root / f"data/train/{name}").unlink()
    states = world.states()
    assert (states["preprocess"], states["latents"], states["text"], states["train"]) == (
        CACHED,
        CACHED,
        CACHED,
        STALE,
    )


def test_lost_receipts(world: World) -> None:
    world.run()
    shutil.rmtree(world.results)
    steps = world.steps()
    assert {step.state for name, step in steps.items() if name in WORKED} == {CACHED}
    assert all(step.work.todo == 0 for name, step in steps.items() if name in WORKED)
    assert steps["train"].why[0].kind == "receipt"


def test_a_training_that_was_killed(world: World) -> None:
    parts = world.run(until="text")
    checkpoint = world.store / "train" / parts["train"].key / "checkpoints/step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "record.json").write_text("{}")
    log = "".join(f'{{"step": {i}, "loss": 1.0, "seconds": 100.0, "data_wait": 0.0}}\n' for i in range(1, 5))
    (checkpoint.parents[1] / "log.jsonl").write_text(log + '{"step": 5, "lo')
    step = world.steps()["train"]
    assert (step.state, step.work.todo) == (PARTIAL, 2)
    assert step.why[0].text == "resumes at step 4 of 6"
    assert step.estimate is not None
    assert step.estimate.basis == "measured"
    assert 200 <= (step.estimate.seconds or 0) <= 230


def test_a_stage_that_was_killed(world: World) -> None:
    parts = world.run(until="preprocess")
    world.rows(parts["latents"], world.ids(parts["latents"])[:2])
    step = world.steps()["latents"]
    assert (step.state, step.work.todo) == (PARTIAL, 3)
    assert step.why[0].text == "2 of 5 clips are finished"


def test_a_rejected_clip_is_never_encoded(world: World) -> None:
    parts = world.run(until="preprocess")
    receipt = world.results / ".receipts" / f"preprocess-{parts['preprocess'].key}.json"
    receipt.write_text(receipt.read_text().replace('"reused": 0', '"reused": 0, "rejected": 1'))
    world.rows(parts["latents"], world.ids(parts["latents"])[:4])
    step = world.steps()["latents"]
    assert (step.state, step.work.todo, step.work.total) == (CACHED, 0, 4)


def test_a_key_that_no_result_depends_on(world: World) -> None:
    world.run()
    world.edit("log_interval: 1", "log_interval: 2")
    steps = world.steps()
    assert {name for name, step in steps.items() if step.runs} == {"report"}
    assert steps["report"].why[0].text.startswith("args.log_interval 1 → 2 (")


def test_a_receipt_without_its_work_is_told(world: World) -> None:
    parts = world.run()
    shutil.rmtree(world.store / "latents")
    step = world.steps()["latents"]
    assert step.state == UP_TO_DATE
    assert parts["latents"].items_key in step.warnings[0]


def test_experiments_share_jobs_and_rows(world: World) -> None:
    """The second has the same caches (the same job), the third another data set (the same folder)."""
    world.experiments(
        "tiny", fast="deepspeed.optimizer.params.lr=0.1", short=f"'args.valid_data=[{world.root}/data/train]'"
    )
    first, fast, short = ({step.stage: step for step in survey.steps} for survey in world.plan())
    assert first["latents"].key == fast["latents"].key
    assert first["latents"].work == fast["latents"].work
    assert [reason.text for reason in fast["latents"].why] == ["same job as in tiny"]
    assert fast["latents"].estimate is None
    assert first["train"].key != fast["train"].key
    assert (short["latents"].work.todo, short["latents"].work.shared) == (0, 4)
    assert "4 of its clips are made by another experiment's job" in [reason.text for reason in short["latents"].why]


def test_an_experiment_that_starts_from_another(world: World) -> None:
    world.experiments("tiny", more="args.load.experiment=tiny")
    surveys = world.plan("more")
    assert [(one.experiment, one.only_for) for one in surveys] == [("tiny", "more"), ("more", None)]
    assert [step.stage for step in surveys[0].steps][-1] == "train"
    world.run("tiny")
    world.run("more")
    assert all(not step.runs for survey in world.plan() for step in survey.steps)
    world.edit(*LR)
    second = {step.stage: step for step in world.plan()[1].steps}
    assert "because the training that it starts from changed" in [reason.text for reason in second["train"].why]


def test_never_run_but_another_experiment_was(world: World) -> None:
    world.run()
    world.experiments("tiny", other="args.seed=12")
    texts = [reason.text for reason in world.steps("other")["train"].why]
    assert texts == [
        "never run; closest previous run differs in:",
        f"args.seed 11 → 12 ({world.workflow}: experiments.other.set)",
    ]


def test_a_config_that_cannot_be_planned_leaves_the_others(world: World) -> None:
    from cogtune.commands.plan import survey_all
    from tests.unit.plan.world import CPU

    world.experiments("tiny", bad="args.sede=1")
    surveys, failed = survey_all(world.open(), ["bad", "tiny"], CPU, world.scan)
    assert [one.experiment for one in surveys] == ["tiny"]
    assert "did you mean 'seed'" in str(failed["bad"])


def test_an_experiment_whose_parents_data_was_never_scanned(world: World) -> None:
    """Neither of the two data sets was scanned; the parent's survey needs the child's keys as well."""
    world.clip("apart", "of the child", "child")
    world.experiments("tiny", child=f"args.load.experiment=tiny, 'args.train_data=[{world.root}/data/child]'")
    parent, child = world.plan("child")
    assert (parent.experiment, parent.only_for, child.experiment) == ("tiny", "child", "child")


@pytest.mark.parametrize("whole", [False, True], ids=["its digests", "all of it"])
def test_a_scan_that_is_gone_is_named_and_the_advice_works(world: World, whole: bool) -> None:
    keys = {name: part.key for name, part in world.slices().items()}
    (digests,) = world.store.glob("scan/*/digests.json")
    folder = digests.parent
    digests.unlink()
    if whole:
        digests.with_name("manifest.jsonl").unlink()
        digests.with_name("report.json").unlink()
        folder.rmdir()
    with pytest.raises(UserError, match=rf"digests\.json: missing; `cogtune store verify {folder.name} --repair"):
        world.slices()
    for key in (folder.name, None):
        assert store_verify.run(world.store, key, False, world.results) == 1
    assert store_verify.run(world.store, folder.name, True, world.results) == 0
    assert not list(world.results.glob(".receipts/scan-*"))
    assert {name: part.key for name, part in world.slices().items()} == keys
    assert store_verify.run(world.store, None, False, world.results) == 0


def advised(world: World) -> set[str]:
    """The keys of the repairs that a plan names."""
    surveys, failed = survey_all(world.open(), ["tiny"], CPU, world.scan)
    named = [str(error) for error in failed.values()]
    named += [warning for survey in surveys for step in survey.steps for warning in step.warnings]
    return set(re.findall(r"`cogtune store verify (\w+) --repair --store", " ".join(named)))


@pytest.mark.parametrize(
    ("lost", "runs_lost"),
    [
        *((lost, False) for lost in ("store", *STAGES) if lost not in ("images", "report")),
        *((lost, True) for lost in ("store", "preprocess", "train")),
    ],
)
def test_receipts_without_a_store(world: World, lost: str, runs_lost: bool) -> None:
    """Whatever was removed below them: the repairs that a plan names work, and it plans all of it then."""
    parts = world.run()
    gone = [world.store] if lost == "store" else [world.store / lost, world.store / "slices"]
    gone += [world.results / ".runs", world.store / "records"] if runs_lost else []
    for place in filter(Path.exists, reversed(gone)):
        place.rename(world.root / f"gone-{place.name}")
    keys = advised(world)
    assert keys
    for _ in STAGES:
        for key in keys:
            assert main(["store", "verify", key, "--repair", "--workflow", str(world.workflow)]) == 0
        if not (keys := advised(world)):
            break
    assert not keys
    states = world.states()
    missing = [stage for stage in states if stage != "scan" and not world.folder(parts[stage]).is_dir()]
    assert {stage: states[stage] for stage in missing} == dict.fromkeys(missing, STALE)
    assert states["report"] == STALE
    if lost != "store":
        assert store_verify.run(world.store, None, False, world.results) in (0, 1)


def test_fp16_on_a_cpu_is_found_before_anything_is_cached(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.edit("bf16: {enabled: true}", "bf16: {enabled: false}")
    world.edit("fp16: {enabled: false}", "fp16: {enabled: true}")
    assert world.steps()["train"].warnings == [
        "cannot run: deepspeed.fp16.enabled: a CPU cannot train in fp16; set it to false, or use bf16"
    ]
    assert not any("cannot run" in text for text in world.steps(machine=GPU)["train"].warnings)
    if has_gpu():
        return
    assert refused_here(world.open(), ["tiny"], files_exist=False) == refused_here(world.open(), ["tiny"])
    assert refused_here(world.open(), ["tiny"]) == [
        "tiny: deepspeed.fp16.enabled: a CPU cannot train in fp16; set it to false, or use bf16, "
        "or run the workflow on a machine with a GPU"
    ]
    assert main(["config", "check", "--workflow", str(world.workflow)]) == 0
    assert "a CPU cannot train in fp16" in capsys.readouterr().err
    world.run()
    assert refused_here(world.open(), ["tiny"]) == [], "it is trained already"
