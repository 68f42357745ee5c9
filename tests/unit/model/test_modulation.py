import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cogtune.model.modulation import ModulatedLayerNorm, gated_add

L = 2


def sample() -> tuple[Tensor, ...]:
    """Sequence (B, N, D) and three modulation tensors (B, 2, D)."""
    torch.manual_seed(0)
    h = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    return (h, *(torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)))


def per_token(m_B2D: Tensor) -> Tensor:
    return torch.cat([m_B2D[:, :1].expand(-1, L, -1), m_B2D[:, 1:].expand(-1, 5 - L, -1)], dim=1)


@pytest.mark.parametrize("affine", [True, False])
def test_modulated_norm_is_norm_scale_shift(affine: bool) -> None:
    h, shift, scale, _ = sample()
    norm = ModulatedLayerNorm(8, eps=1e-5, elementwise_affine=affine).double()
    if affine:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    expected = F.layer_norm(h, (8,), norm.weight, norm.bias, 1e-5) * (1 + per_token(scale)) + per_token(shift)
    torch.testing.assert_close(norm(h, L, shift, scale)[0], expected)


def test_gradients() -> None:
    h, shift, scale, gate = sample()
    norm = ModulatedLayerNorm(8, eps=1e-5).double()
    assert torch.autograd.gradcheck(lambda h, shift, scale: norm(h, L, shift, scale)[0], (h, shift, scale))
    branch = torch.randn_like(h).requires_grad_()
    assert torch.autograd.gradcheck(lambda h, branch, gate: gated_add(h, branch, gate, L), (h, branch, gate))
    weight, bias = norm.weight, norm.bias
    norm(h, L, shift, scale)[0].square().sum().backward()
    given = weight.grad, bias.grad
    norm.zero_grad()
    plain = F.layer_norm(h, (8,), weight, bias, 1e-5) * (1 + per_token(scale)) + per_token(shift)
    plain.square().sum().backward()
    torch.testing.assert_close(given, (weight.grad, bias.grad))


def test_gated_add() -> None:
    h, gate, _, _ = sample()
    branch = torch.randn_like(h)
    torch.testing.assert_close(gated_add(h, branch, gate, L), h + per_token(gate) * branch)
