"""Devices, precisions, threads."""

import pytest
import torch

from cogtune.errors import UserError
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
