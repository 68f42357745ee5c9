"""Devices, precisions, threads."""

import os

import pytest
import torch

from cogtune.errors import UserError
from cogtune.runtime import devices as devices_module
from cogtune.runtime.devices import device_for, devices, dtype_of, prepare_torch


def test_there_is_always_a_device() -> None:
    found = devices()
    assert found
    assert [device_for(rank) for rank in range(len(found), 2 * len(found))] == found
    if not torch.cuda.is_available():
        assert found == [torch.device("cpu")]


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_precisions(name: str, dtype: torch.dtype) -> None:
    assert dtype_of(name) is dtype


def test_unknown_precision() -> None:
    with pytest.raises(UserError, match="bf16, fp16, fp32"):
        dtype_of("half")


def test_threads() -> None:
    before = torch.get_num_threads()
    prepare_torch(0)
    assert torch.get_num_threads() == 1
    prepare_torch(before)


@pytest.mark.parametrize("gpus", [0, 1])
def test_only_a_gpu_is_made_deterministic(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(devices_module, "visible_gpus", lambda: gpus)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        devices_module.make_deterministic()
        assert torch.are_deterministic_algorithms_enabled() == bool(gpus)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (":4096:8" if gpus else "")
        assert torch.backends.cudnn.deterministic == bool(gpus)
        assert torch.backends.cuda.cudnn_sdp_enabled() == (before and not gpus)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
        torch.backends.cuda.enable_cudnn_sdp(before)
