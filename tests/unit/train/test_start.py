"""The starting model is the same bits every time, and a chain of trainings is followed to its beginning."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogtune.errors import UserError
from cogtune.model.lora import is_adapter
from cogtune.model.start import Start, initial_model, trained_model
from cogtune.model.weights.formats import NetworkWeights, Settings, write
from cogtune.train.result import write_tensors
from cogtune.work.load import load_config

TINY = Path(__file__).parents[2] / "workflow/tiny.yaml"


@pytest.fixture(scope="module")
def network() -> dict[str, Any]:
    return load_config([TINY], check_files=False).values["model"]["network_config"]


def with_lora(network: dict[str, Any], r: int, alpha: float = 1) -> dict[str, Any]:
    changed = copy.deepcopy(network)
    changed["params"]["modules"]["lora_config"] = {"target": "Lora", "params": {"r": r, "lora_alpha": alpha}}
    return changed


def pretend_training(start: Start, path: Path, only: str = "") -> Path:
    """Write trained parameters that are not those of the start: all of them, or those whose name holds ``only``."""
    draw = torch.Generator().manual_seed(9)
    state = {
        name: p.detach() + 0.1 * torch.randn(p.shape, generator=draw)
        for name, p in initial_model(start).named_parameters()
        if only in name and (only or p.requires_grad)
    }
    write_tensors(path, state, {})
    return path


@torch.no_grad()
def output(network: nn.Module) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    x_BTCHW, context_BLD = torch.randn(1, 2, 4, 4, 6, generator=draw), torch.randn(1, 8, 32, generator=draw)
    return network(x_BTCHW, torch.tensor([300]), context_BLD)


def test_random_weights_come_from_the_seed_alone(network: dict[str, Any]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = initial_model(Start(network, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = initial_model(Start(network, seed=3)), initial_model(Start(network, seed=4))
    for name, p in first.state_dict().items():
        assert torch.equal(p, again.state_dict()[name]), name
    assert not torch.equal(output(first), output(other))


def test_a_start_survives_json(network: dict[str, Any]) -> None:
    start = Start(network, 3, before=Start(network, 1, weights="/w"), trained="/t")
    assert Start.from_dict(start.to_dict()) == start
    assert start.origin() == "training result /t"


def test_weights_are_loaded_from_a_path(network: dict[str, Any], tmp_path: Path) -> None:
    donor = initial_model(Start(network, seed=8))
    write_tensors(tmp_path / "w.safetensors", donor.state_dict(), {})
    loaded = initial_model(Start(network, seed=3, weights=str(tmp_path / "w.safetensors")))
    assert torch.equal(output(loaded), output(donor))


def test_full_training_then_lora_starts_at_the_trained_output(network: dict[str, Any], tmp_path: Path) -> None:
    first = Start(network, seed=3)
    trained = pretend_training(first, tmp_path / "model.safetensors")
    second = Start(with_lora(network, 4), seed=5, before=first, trained=str(trained))
    assert torch.equal(output(initial_model(second)), output(trained_model(first, trained)))


def test_the_same_lora_goes_on(network: dict[str, Any], tmp_path: Path) -> None:
    first = Start(with_lora(network, 4, alpha=4), seed=3)
    trained = pretend_training(first, tmp_path / "lora.safetensors", only="matrix_")
    second = initial_model(Start(with_lora(network, 4, alpha=4), seed=5, before=first, trained=str(trained)))
    for name, p in trained_model(first, trained).named_parameters():
        if is_adapter(name):
            assert torch.equal(p, second.get_parameter(name))


@pytest.mark.parametrize(("r", "alpha"), [(2, 4), (4, 8), (0, 1)])
def test_another_lora_finds_the_old_one_folded_in(
    network: dict[str, Any], tmp_path: Path, r: int, alpha: float
) -> None:
    first = Start(with_lora(network, 4, alpha=4), seed=3)
    trained = pretend_training(first, tmp_path / "lora.safetensors", only="matrix_")
    node = with_lora(network, r, alpha) if r else network
    second = initial_model(Start(node, seed=5, before=first, trained=str(trained)))
    expected = output(trained_model(first, trained))
    assert not torch.allclose(expected, output(initial_model(first)), atol=1e-3)
    torch.testing.assert_close(output(second), expected, rtol=0, atol=1e-5)


def test_weights_of_another_network_are_refused(network: dict[str, Any], tmp_path: Path) -> None:
    wider = copy.deepcopy(network)
    wider["params"]["hidden_size"] = 64
    trained = pretend_training(Start(wider, seed=3), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="has shape"):
        trained_model(Start(network, seed=3), trained)
    with pytest.raises(UserError, match=r"args\.load"):
        initial_model(Start(network, seed=3, before=Start(wider, seed=3), trained=str(trained)))


@pytest.mark.parametrize("layout", ["sat", "diffusers"])
def test_weights_are_loaded_as_they_are_whatever_the_seed(network: dict[str, Any], layout: str, tmp_path: Path) -> None:
    """Half-precision files become fp32; nothing random is left, and what trains is what trained without them."""
    source = initial_model(Start(network, seed=3))
    write(layout, tmp_path / "w", NetworkWeights(source.state_dict(), network), Settings(torch.bfloat16))
    loaded = initial_model(Start(network, seed=4, weights=str(tmp_path / "w")))
    for (name, given), (other, parameter) in zip(loaded.named_parameters(), source.named_parameters(), strict=True):
        exact = name == "mixins.pos_embed.pos_embedding" and layout == "diffusers"  # computed, not stored
        assert (name, given.dtype, given.requires_grad) == (other, torch.float32, parameter.requires_grad)
        assert torch.equal(given, parameter if exact else parameter.bfloat16().float()), name
    adapted = initial_model(Start(with_lora(network, 2), seed=4, weights=str(tmp_path / "w")))
    assert torch.equal(output(adapted), output(loaded))


def test_adapters_over_loaded_weights_come_from_the_seed_alone(network: dict[str, Any], tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.safetensors", initial_model(Start(network, seed=3)).state_dict(), {})

    def adapters(seed: int) -> dict[str, Tensor]:
        start = Start(with_lora(network, 2), seed, weights=str(tmp_path / "w.safetensors"))
        torch.randn(seed)  # whatever was drawn before
        return {name: p.detach() for name, p in initial_model(start).named_parameters() if is_adapter(name)}

    first, again, other = adapters(4), adapters(4), adapters(5)
    assert {name for name, p in first.items() if p.any()} == {name for name in first if "matrix_A" in name}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "matrix_A" in name)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("begin", ["random", "weights", "trained"])
def test_in_another_type_it_is_the_rounded_fp32_one(
    network: dict[str, Any], begin: str, rank: int, tmp_path: Path
) -> None:
    """DeepSpeed would round it so; a rank that holds bf16 from the start needs half the memory."""
    first = Start(network, seed=3)
    path = str(pretend_training(first, tmp_path / "model.safetensors"))
    node = with_lora(network, rank) if rank else network
    start = {
        "random": Start(node, seed=4),
        "weights": Start(node, seed=4, weights=path),
        "trained": Start(node, seed=4, before=first, trained=path),
    }[begin]
    if begin == "weights":  # as a checkpoint has it: with what does not train
        write_tensors(Path(path), trained_model(first, Path(path)).state_dict(), {})
    expected, found = initial_model(start).bfloat16(), initial_model(start, torch.bfloat16)
    for (name, p), (_, other) in zip(found.named_parameters(), expected.named_parameters(), strict=True):
        assert (p.dtype, p.requires_grad) == (torch.bfloat16, other.requires_grad)
        assert torch.equal(p, other), name
