"""What some kernels of torch cannot do."""

import os

import pytest
import torch
import torch.nn.functional as F


def _bf16_attention_fails() -> str:
    """torch's message. With ATEN_CPU_CAPABILITY below the processor's own it chooses a kernel for matrix units (AMX) by the
    processor, and then misses its parts; without that variable a failure is a failure."""
    if "ATEN_CPU_CAPABILITY" not in os.environ:
        return ""
    x = torch.zeros(1, 1, 64, 16, dtype=torch.bfloat16)
    try:
        F.scaled_dot_product_attention(x, x, x)
    except RuntimeError as error:
        return str(error)
    return ""


needs_bf16_attention = pytest.mark.skipif(
    bool(message := _bf16_attention_fails()),
    reason=f"ATEN_CPU_CAPABILITY={os.environ.get('ATEN_CPU_CAPABILITY')}: torch's bf16 attention fails: {message}",
)
