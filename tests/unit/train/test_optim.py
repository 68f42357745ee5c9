"""AdamWEma steps as torch's AdamW does, and its average follows the closed form."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cogtune.train.optim import SHADOW, AdamWEma, parameter_groups


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    """Steps on fixed data; returns the first weight after each."""
    seen = []
    for step in steps:
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        seen.append(next(net.parameters()).detach().clone())
    return seen


def test_steps_are_those_of_torch_adamw() -> None:
    ours, fused, looped = small_net(), small_net(), small_net()
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
    train(ours, AdamWEma(parameter_groups(ours, 0.1), **options), range(10))
    train(fused, torch.optim.AdamW(parameter_groups(fused, 0.1), fused=True, **options), range(10))
    train(looped, torch.optim.AdamW(parameter_groups(looped, 0.1), **options), range(10))
    for mine, reference, other in zip(ours.parameters(), fused.parameters(), looped.parameters(), strict=True):
        assert torch.equal(mine, reference)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("decay", "ramp"), [(0.9999, True), (0.3, True), (0.9, False)])
def test_average_follows_its_closed_form(decay: float, ramp: bool) -> None:
    net = small_net()
    optimizer = AdamWEma(net.parameters(), lr=1e-2, ema_decay=decay, ramp=ramp)
    weight = next(net.parameters())
    expected = weight.detach().double().clone()
    for n, p in enumerate(train(net, optimizer, range(25)), start=1):
        d = min(decay, (1 + n) / (10 + n)) if ramp else decay
        expected = d * expected + (1 - d) * p.double()
    torch.testing.assert_close(optimizer.state[weight][SHADOW].double(), expected, rtol=1e-6, atol=1e-7)


def by_group(optimizer: AdamWEma) -> None:
    """ZeRO 1 and 2: a call for each group."""
    groups = optimizer.param_groups
    for group in groups:
        optimizer.param_groups = [group]
        optimizer.step()
    optimizer.param_groups = groups


def by_sub_group(optimizer: AdamWEma) -> None:
    """ZeRO 3: a call for each flat tensor, of which a group may have several; the other groups are empty."""
    members = [(group, group["params"]) for group in optimizer.param_groups]
    for group, _ in members:
        group["params"] = []
    for group, parameters in members:
        for p in parameters:
            group["params"] = [p]
            optimizer.step()
            group["params"] = []
    for group, parameters in members:
        group["params"] = parameters


@pytest.mark.parametrize("step", [by_group, by_sub_group])
def test_average_counts_steps_and_not_calls(step: Callable[[AdamWEma], None]) -> None:
    parted, whole = small_net(), small_net()
    optimizer = AdamWEma(parameter_groups(parted, 0.1), lr=1e-2)
    reference = AdamWEma(parameter_groups(whole, 0.1), lr=1e-2)
    for i in range(6):
        for net in (parted, whole):
            net.zero_grad()
            net(torch.randn(4, 6, generator=torch.Generator().manual_seed(i))).square().mean().backward()
        step(optimizer)
        reference.step()
    for mine, other in zip(parted.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(optimizer.state[mine][SHADOW], reference.state[other][SHADOW])


def test_the_count_is_read_once_and_again_when_something_else_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a read waits for the step of every tensor."""
    reads, read = [], torch.Tensor.__int__
    monkeypatch.setattr(torch.Tensor, "__int__", lambda tensor: reads.append(1) or read(tensor))
    net = small_net()
    optimizer, count = AdamWEma(net.parameters(), lr=1e-2), len(list(net.parameters()))
    train(net, optimizer, range(5))
    assert len(reads) == count
    weight = next(net.parameters())
    optimizer.state[weight]["step"].fill_(1000)
    before = optimizer.state[weight][SHADOW].clone()
    train(net, optimizer, range(5, 6))
    assert len(reads) == count + 1
    expected = torch.lerp(before, weight.detach(), 1 - 1002 / 1011)
    torch.testing.assert_close(optimizer.state[weight][SHADOW], expected)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer, range(6, 8))
    assert len(reads) == 2 * count + 1
    optimizer.state.clear()  # as `build_engine` does: count and average start anew
    before = weight.detach().clone()
    train(net, optimizer, range(8, 9))
    expected = torch.lerp(before, weight.detach(), 1 - 2 / 11)
    torch.testing.assert_close(optimizer.state[weight][SHADOW], expected)


def test_average_survives_saving_and_loading() -> None:
    whole, cut = small_net(), small_net()
    first = AdamWEma(cut.parameters(), lr=1e-2)
    train(cut, first, range(5))
    resumed = AdamWEma(cut.parameters(), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    train(cut, resumed, range(5, 9))
    uninterrupted = AdamWEma(whole.parameters(), lr=1e-2)
    train(whole, uninterrupted, range(9))
    for mine, reference in zip(cut.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, reference)
        assert torch.equal(resumed.state[mine][SHADOW], uninterrupted.state[reference][SHADOW])


def test_parameters_without_gradient_have_no_average() -> None:
    net = small_net()
    net[0].requires_grad_(False)
    optimizer = AdamWEma(net.parameters(), lr=1e-2)
    train(net, optimizer, range(1))
    assert SHADOW not in optimizer.state.get(net.get_parameter("0.weight"), {})


def test_biases_and_norms_do_not_decay() -> None:
    net = small_net()
    net[2].bias.requires_grad_(False)
    decayed, plain = parameter_groups(net, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(net[0].weight), id(net[2].weight)]
    assert [id(p) for p in plain["params"]] == [id(net[0].bias), id(net[1].weight), id(net[1].bias)]
