import pytest
import torch
import torch.nn.functional as F

from cogtune.model import gelu as module
from cogtune.model.gelu import Gelu, gelu


@pytest.mark.parametrize("block", [5, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_function(block: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    x = torch.cat([torch.linspace(-12, 12, 118), torch.tensor([1e30, -1e30])]).to(dtype).view(4, 30)
    for one in (x, x.T, x[:, 3:7], x[:0]):
        y, exact = gelu(one), F.gelu(one.double(), approximate="tanh")
        assert (y.dtype, y.shape) == (one.dtype, one.shape)
        torch.testing.assert_close(y.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_its_gradient() -> None:
    x = torch.linspace(-8, 8, 100, dtype=torch.float64).view(4, 25).requires_grad_()
    # The product makes the incoming gradient a tensor of its own: `Gelu` writes over it, and gradcheck uses its own again.
    assert torch.autograd.gradcheck(lambda x: Gelu.apply(x) * 1.0, (x,))
