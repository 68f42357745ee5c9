"""What jobs ask of a scheduler: the plan's estimate with a margin, or what the workflow config says."""

from dataclasses import replace
from pathlib import Path

import pytest

from cogtune.commands.plan import survey_all
from cogtune.commands.plan_table import job_count
from cogtune.config.errors import ConfigError
from cogtune.config.schema.workflow import ResourcesSection
from cogtune.plan.counts import Work
from cogtune.plan.requests import Request, Requests
from cogtune.work.workspace import Workspace
from tests.unit.plan.world import GPU, World

DEFAULT = ResourcesSection()


def opened(world: World, more: str = "") -> Workspace:
    """The workspace with the scan done; ``more``: lines of its config."""
    world.workflow.write_text(world.workflow.read_text() + more)
    workspace = world.open()
    world.scan(workspace, "tiny")
    return workspace


def requests(world: World, more: str = "") -> dict[str, Request]:
    workspace = opened(world, more)
    asked = Requests(workspace)
    return {stage: asked.of(part.key, stage) for stage, part in workspace.slices("tiny").items()}


@pytest.mark.heavy
def test_each_stage_asks_for_its_estimate_with_a_margin(world: World) -> None:
    asked = requests(world, "device: H100\n")
    steps = world.steps(machine=GPU)
    for stage in ("latents", "text", "train", "sample", "evaluate", "export"):
        estimate = steps[stage].estimate
        assert estimate is not None
        assert estimate.seconds is not None
        assert asked[stage].mem_mb > estimate.host / 1e6 + 600 * max(1, estimate.devices), stage
        assert asked[stage].runtime * 60 > estimate.seconds
        assert asked[stage].disk_mb >= estimate.disk / 1e6
        assert asked[stage].gpu == estimate.devices, stage
    assert asked["preprocess"].gpu == asked["scan"].gpu == asked["report"].gpu == 0


@pytest.mark.heavy
def test_on_a_cpu_a_job_asks_for_no_gpu_and_for_the_memory_of_all_ranks(world: World) -> None:
    asked, estimate = requests(world), world.steps()["train"].estimate
    assert estimate is not None
    assert {request.gpu for request in asked.values()} == {0}
    assert asked["train"].mem_mb > 2 * estimate.memory / 1e6


@pytest.mark.heavy
def test_what_no_estimate_is_known_of_asks_for_what_the_config_says(world: World) -> None:
    own = "resources: {mem_mb: 7000, runtime: 33, disk_mb: 44, gpu: 3}\n"
    expected = Request(7000, 33, 44, 0)
    asked = requests(world, own + "device: A100\n")
    assert asked["scan"] == asked["report"] == expected
    assert asked["preprocess"].mem_mb == 7000, "its memory is not modelled, its time is"
    assert asked["preprocess"].runtime != 33
    unknown = Requests(world.open())
    assert unknown.of("0" * 12, "sweep") == unknown.of("0" * 12, "report") == expected
    assert unknown.of("0" * 12, "sample").gpu == 3


def test_a_finished_job_asks_for_one_process(world: World) -> None:
    parts = world.run()
    asked = Requests(world.open())
    assert asked.of(parts["train"].key, "train").mem_mb < 2000
    assert asked.of(parts["train"].key, "train").runtime < DEFAULT.runtime


def test_damage_in_the_store_is_the_jobs_to_tell(world: World) -> None:
    workspace = opened(world)
    part = workspace.slices("tiny")["latents"]
    (world.store / "preprocess").mkdir(exist_ok=True)
    rows = world.store / "latents" / part.items_key
    rows.mkdir(parents=True)
    (rows / "rows-broken.safetensors").write_bytes(b"x" * 100)
    assert Requests(workspace).of(part.key, "latents") == Request(DEFAULT.mem_mb, DEFAULT.runtime, DEFAULT.disk_mb, 0)


@pytest.mark.heavy
def test_asking_writes_nothing(world: World) -> None:
    """Not even the index of rows, which a plan keeps for the next one."""
    world.run(until="latents")
    for index in world.store.rglob("index.json"):
        index.unlink()
    workspace = world.open()
    workspace.writes.held = True
    before = {path: path.stat().st_mtime_ns for path in world.root.rglob("*")}
    for stage, part in workspace.slices("tiny").items():
        Requests(workspace).of(part.key, stage)
    assert {path: path.stat().st_mtime_ns for path in world.root.rglob("*")} == before


def test_a_device_that_is_not_known_is_refused(world: World, tmp_path: Path) -> None:
    world.workflow.write_text(world.workflow.read_text() + "device: Voodoo2\n")
    with pytest.raises(ConfigError, match="device: unknown GPU 'Voodoo2'; expected one of B200"):
        world.open()


@pytest.mark.heavy
def test_a_part_asks_for_its_share_on_one_device(world: World) -> None:
    workspace = opened(world, "device: H100\n")
    asked, parts = Requests(workspace), workspace.slices("tiny")
    for stage in ("latents", "text", "sample", "evaluate"):
        key = parts[stage].key
        count = asked.parts(key, stage, 2)
        assert count == 2
        whole, one = asked.of(key, stage), asked.of(key, stage, count)
        assert one.gpu == 1
        assert one.runtime <= whole.runtime
        assert one.mem_mb <= whole.mem_mb
        assert one.disk_mb <= whole.disk_mb
        gather = asked.of_gather(stage)
        assert (gather.gpu, gather.disk_mb, gather.runtime) == (0, 0, DEFAULT.runtime)
        assert gather.mem_mb < 2000
    assert asked.parts(parts["latents"].key, "latents", 1) == 0
    assert asked.parts("0" * 12, "latents", 8) == 0, "before the scan"


def test_no_part_is_without_a_missing_row(world: World) -> None:
    workspace = opened(world)
    part = workspace.slices("tiny")["latents"]
    total = world.steps()["latents"].work.todo
    assert Requests(workspace).parts(part.key, "latents", 100) == total > 1
    parts = world.run()
    assert Requests(world.open()).parts(parts["latents"].key, "latents", 100) == 0, "no row is missing"


@pytest.mark.parametrize(
    ("todo", "together", "most", "parts", "largest"),
    [
        (0, 1, 8, 0, 0),
        (1, 1, 8, 1, 1),
        (9, 1, 1, 0, 9),
        (9, 1, 4, 4, 3),
        (3, 4, 4, 1, 3),
        (9, 4, 2, 2, 8),
        (9, 4, 8, 3, 4),
    ],
)
def test_the_parts_of_work_done_in_batches(todo: int, together: int, most: int, parts: int, largest: int) -> None:
    """With N > 1 one missing unit is a part too: the stage's own job only gathers."""
    work = Work(todo, 20, "clips", together=together)
    assert work.parts(most) == parts
    assert work.largest(max(1, parts)) == largest


def test_a_plan_says_into_how_many_parts_a_job_is_cut(world: World) -> None:
    workspace = world.open()
    surveys, _ = survey_all(workspace, ["tiny"], GPU, world.scan, {"latents": 2, "text": 1})
    steps = {step.stage: step for step in surveys[0].steps}
    cut, whole = steps["latents"].estimate, world.steps(machine=replace(GPU, count=1))["latents"].estimate
    assert cut is not None
    assert whole is not None
    assert (cut.parts, cut.devices, cut.disk) == (2, 2, whole.disk)
    assert cut.seconds is not None
    assert whole.seconds is not None
    assert cut.seconds < whole.seconds
    most = -(-steps["latents"].work.todo // 2)
    assert steps["latents"].notes == [f"latents: 2 parts of at most {most} clips; time if all run at once"]
    assert steps["text"].notes == []
    assert job_count(list(steps.values())) == len(steps) + 2
