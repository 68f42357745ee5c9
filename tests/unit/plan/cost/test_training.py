"""Optimizer and master bytes, against DeepSpeed's own; and what offload moves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cogtune.config.build import section_of
from cogtune.config.schema.deepspeed import DeepSpeedSection
from cogtune.plan.cost.training import checkpoint_bytes, memory, optimizer_bytes, optimizer_states
from cogtune.plan.cost.transformer import Network
from tests.families import full_size, network_config
from tests.kernels import needs_bf16_attention
from tests.unit.plan.cost.zero_bytes import SETTINGS, node, section

REPO = Path(__file__).parents[4]
RANKS = 2
BASE: dict[str, Any] = {"bf16": {"enabled": True}, "optimizer": {"type": "AdamW"}}


def typed(values: dict[str, Any]) -> DeepSpeedSection:
    return section_of(DeepSpeedSection, values, "deepspeed")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """Rank 0 of two real ranks."""
    meeting = tmp_path_factory.mktemp("zero") / "rendezvous"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.plan.cost.zero_bytes", str(rank), str(RANKS), str(meeting)],
            cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    told = [process.communicate(timeout=120) for process in ranks]
    assert all(process.returncode == 0 for process in ranks), told[0][1][-3000:]
    lines = told[0][0].splitlines()
    return [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]


@pytest.mark.heavy
@needs_bf16_attention
@pytest.mark.parametrize("i", range(len(SETTINGS)), ids=[str(setting) for setting in SETTINGS])
def test_optimizer_and_masters_to_the_byte(measured: list[dict[str, int]], i: int) -> None:
    stage, bf16, kind, lora = SETTINGS[i]
    network = Network(node(lora), ["all"] if lora else [])
    if not lora:
        assert network.trained_count % RANKS, "nothing is padded, so padding is not tested"
    held = memory(network, typed(section(stage, bf16, kind)), RANKS)
    assert held.optimizer == measured[i]["optimizer"]
    assert held.masters == measured[i]["masters"]
    if stage < 3:  # ZeRO 3 has small weights whole, and gathers the others when they are used
        assert held.weights == measured[i]["weights"]


def test_states_of_each_optimizer() -> None:
    sections = [
        {},
        {"optimizer": {"type": "AdamW", "params": {"amsgrad": True}}},
        {"optimizer": {"type": "FusedEmaAdam", "params": {}}},
    ]
    assert [optimizer_states(typed(one)) for one in sections] == [2, 3, 3]


def test_zero_shares_what_it_says() -> None:
    """5B, 8 ranks: the rows of table 1 in the ZeRO paper (2, 4 and 12 bytes a weight). Stage 0 in bf16 runs as 1."""
    network = Network(full_size("5b"))
    psi = network.trained_count
    found = []
    for stage in range(4):
        zero = {"stage": stage, "reduce_bucket_size": 1}
        held = memory(network, typed(BASE | {"zero_optimization": zero}), 8)
        found.append((held.weights, held.masters + held.optimizer))
    assert [states / psi for _, states in found] == pytest.approx([1.5, 1.5, 1.5, 1.5], rel=1e-3)
    assert [weights / psi for weights, _ in found[:3]] == pytest.approx([2, 2, 2], rel=1e-3)
    assert found[3][0] < 0.2 * found[0][0]


def test_offload_moves_bytes_to_the_host() -> None:
    network = Network(network_config("5b"))
    stays = memory(network, typed(BASE | {"zero_optimization": {"stage": 2}}), 2)
    offload = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    moved = memory(network, typed(BASE | {"zero_optimization": offload}), 2)
    assert (stays.host, moved.masters, moved.optimizer) == (0, 0, 0)
    assert moved.host >= stays.masters + stays.optimizer
    assert moved.device < stays.device


def test_a_limit_of_zero_is_not_deepspeeds_default() -> None:
    network = Network(network_config("5b"))
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0}
    split = memory(network, typed(BASE | {"zero_optimization": zero}), 2)
    assert split.weights == 2 * sum(-(-one.count // 2) for one in network.parameters)


def test_offload_counts_only_where_it_acts() -> None:
    network = Network(network_config("5b"))
    plain, offloaded = (
        memory(network, typed({"zero_optimization": {"stage": 0} | more}), 2)
        for more in ({}, {"offload_optimizer": {"device": "cpu"}})
    )
    assert plain == offloaded


def test_moments_in_8_bits_take_a_quarter() -> None:
    section = typed({"optimizer": {"type": "AdamW8bit", "params": {}}})
    assert optimizer_bytes(section, [1_000_000]) == pytest.approx(2 * 1_000_000 * (1 + 4 / 256), rel=0.01)
    assert optimizer_bytes(section, [4000, 300]) == 8 * 4300, "small tensors keep them in fp32"


@pytest.mark.heavy
def test_moments_in_8_bits_to_the_byte() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    sizes = [100, 4096, 70_001]
    tensors = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    for p in tensors:
        p.grad = torch.ones_like(p)
    optimizer = bitsandbytes.optim.AdamW8bit(tensors)
    optimizer.step()
    held = {
        value.data_ptr(): value
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    }
    section = typed({"optimizer": {"type": "AdamW8bit", "params": {}}})
    assert optimizer_bytes(section, sizes) == sum(value.nbytes for value in held.values())


def test_a_checkpoint_of_5b() -> None:
    """fp32 masters, two moments and the average: 16 bytes a weight."""
    network = Network(full_size("5b"))
    section = typed({"bf16": {"enabled": True}, "optimizer": {"type": "FusedEmaAdam", "params": {}}})
    assert checkpoint_bytes(network, section) == pytest.approx(16 * network.trained_count, rel=1e-6)
