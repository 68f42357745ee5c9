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
        ("NVIDIA RTX A4000", None),
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
