"""Estimates: modelled where nothing ran, scaled where something did, on that device only."""

import pytest

from cogtune.plan.estimate import Estimate
from cogtune.runtime.machines import Device, Machine
from tests.unit.plan.world import GPU, World


def of(world: World, stage: str, machine: Machine | None = None) -> Estimate:
    found = (world.steps() if machine is None else world.steps(machine=machine))[stage].estimate
    assert found is not None
    return found


def test_an_earlier_run_scales(world: World) -> None:
    """4 clips in 60 s, then 4 more: the same again, its start-up not twice."""
    world.run()
    for i in range(5):
        world.clip(f"new{i}", f"new caption {i}")
    found = of(world, "latents")
    assert found.basis == "measured"
    assert found.seconds == pytest.approx(60, abs=1)


def test_training_scales_with_steps_and_arithmetic(world: World) -> None:
    world.run()
    world.edit("train_iters: 6", "train_iters: 600")
    once = of(world, "train")
    assert (once.basis, once.seconds) == ("measured", pytest.approx(15 + 600 / 2.0))
    world.edit("num_layers: 1", "num_layers: 8")
    deeper = of(world, "train")
    assert deeper.basis == "measured"
    assert 15 + 600 / 2.0 * 3 < (deeper.seconds or 0) < 15 + 600 / 2.0 * 8


def test_a_network_of_another_size_says_nothing(world: World) -> None:
    """A toy that is slow because it does not fill the device, and a network with 1,000 times the work a step."""
    world.run()
    world.edit("num_layers: 1", "num_layers: 1000")
    assert of(world, "train").basis == "modelled"
    world.clip("new", "new caption")
    assert of(world, "latents").basis == "measured"  # the VAE is the same


def test_memory_is_moved_by_what_was_measured(world: World) -> None:
    modelled = of(world, "train")
    world.run()
    world.edit("lr: 0.001", "lr: 0.002")
    assert of(world, "train").memory == pytest.approx(700 * 2**20)
    assert modelled.memory != of(world, "train").memory


def test_a_run_on_another_device_says_nothing(world: World) -> None:
    world.run(record={"device": "H100"})
    world.edit("lr: 0.001", "lr: 0.002")
    assert of(world, "sample").basis == "modelled"


def test_records_of_an_earlier_version(world: World) -> None:
    """Without device and counts they are passed over."""
    parts = world.run()
    path = world.store / "records" / f"latents-{parts['latents'].key}.json"
    path.write_text('{"stage": "latents", "runs": 1, "seconds": 5.0, "peak_memory_mib": 1.0}')
    world.clip("new", "more")
    assert of(world, "latents").basis == "modelled"


def test_devices_of_each_stage(world: World) -> None:
    steps = world.steps(machine=GPU)
    devices = {name: step.estimate.devices for name, step in steps.items() if step.estimate}
    assert devices == {
        "preprocess": 0, "latents": 2, "text": 2, "train": 2, "export": 0, "sample": 1, "evaluate": 1, "report": 0
    }  # fmt: skip


def test_a_device_that_is_too_small_or_unknown(world: World) -> None:
    small = Machine(Device("Small", 1e12, 1e12, 1e5), 1)
    warnings = world.steps(machine=small)["train"].warnings
    assert "Small has 0 GB" in warnings[0]
    assert warnings[1] == "does not fit: train needs 2 devices (ranks), found 1"
    unknown = world.steps(machine=Machine(Device("X1", 0.0, 0.0, 0.0), 2))
    assert unknown["train"].estimate is not None
    assert unknown["train"].estimate.seconds is None
    assert unknown["train"].warnings == []
