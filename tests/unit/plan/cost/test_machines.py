"""Which device a name means."""

import pytest

from cogtune.runtime import machines
from cogtune.runtime.machines import find, here


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("h100", "H100"),
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA RTX A4000", "RTX A4000"),
        ("A5000", "RTX A5000"),
        ("4080", "RTX 4080"),
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER"),
        ("3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("24GB", "GPU with 24 GB"),
        ("11.5 gb", "GPU with 11.5 GB"),
        ("0GB", None),
        ("Quadro T400", None),
        ("", None),
    ],
)
def test_find(name: str, device: str | None) -> None:
    found = find(name)
    assert (found.name if found else None) == device


def test_here_counts_what_it_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "driver_names", lambda: ["NVIDIA H200"] * 4)
    assert (here({}).device.name, here({}).count) == ("H200", 4)
    assert here({"CUDA_VISIBLE_DEVICES": "1,3"}).count == 2
    cpu = here({"CUDA_VISIBLE_DEVICES": ""})
    assert (cpu.count, cpu.device.gpu) == (1, False)
    assert cpu.rate(half=True) > 1e8
    monkeypatch.setattr(machines, "driver_names", lambda: ["NVIDIA X1"])
    assert (here({}).device.name, here({}).rate(half=True)) == ("NVIDIA X1", 0.0)


def test_a_name_finds_its_own_row() -> None:
    """No row hides behind another one, neither by the driver's name nor as typed."""
    for device in machines.KNOWN:
        assert find(f"NVIDIA {device.name}") == device
        assert find(device.name.lower().replace(" ", "")) == device


def test_of_a_size_only_the_memory_is_known() -> None:
    device = find("24GB")
    assert device is not None
    assert (device.memory, device.half, device.gpu) == (24e9, 0.0, True)


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machines.gpu_count({"CUDA_VISIBLE_DEVICES": ""}) == 0
    monkeypatch.setattr(machines, "driver_names", lambda: ["NVIDIA X1"] * 3)
    assert (machines.gpu_count({}), machines.gpu_count({"CUDA_VISIBLE_DEVICES": "2"})) == (3, 1)
