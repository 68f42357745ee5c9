from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from cogtune.model.projections import QueryKeyValue


def sample() -> tuple[QueryKeyValue, Tensor]:
    torch.manual_seed(0)
    return QueryKeyValue(4).double(), torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)


def test_rows_are_queries_then_keys_then_values() -> None:
    layer, h = sample()
    torch.testing.assert_close(torch.cat(layer(h), dim=2), F.linear(h, layer.weight, layer.bias))
    assert all(part.is_contiguous() for part in layer(h))


@pytest.mark.parametrize("needed", list(product([True, False], repeat=3))[:-1])
def test_gradients_of_what_needs_them(needed: tuple[bool, bool, bool]) -> None:
    layer, h = sample()
    inputs = (h, layer.weight, layer.bias)
    for tensor, needs in zip(inputs, needed, strict=True):
        tensor.requires_grad_(needs)
    chosen = [tensor for tensor, needs in zip(inputs, needed, strict=True) if needs]
    factor = torch.randn(2, 3, 12, dtype=torch.float64)
    ours = torch.autograd.grad((torch.cat(layer(h), dim=2).sin() * factor).sum(), chosen)
    plain = torch.autograd.grad((F.linear(*inputs).sin() * factor).sum(), chosen)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("frozen", [True, False])
def test_keeps_the_weight_itself_and_the_input_only_for_its_gradient(frozen: bool) -> None:
    layer, h = sample()
    layer.requires_grad_(not frozen)
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(h)
    assert any(tensor is layer.weight for tensor in kept)
    assert not any(tensor is not layer.weight and tensor.data_ptr() == layer.weight.data_ptr() for tensor in kept)
    assert any(tensor.data_ptr() == h.data_ptr() for tensor in kept) is not frozen
