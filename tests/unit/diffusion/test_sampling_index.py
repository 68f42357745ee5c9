from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogtune.config.build import build
from cogtune.diffusion.sampling_index import DiscreteSampling
from tests.unit.diffusion.nodes import discretization, sampling_index

STRATIFIED = {"uniform_sampling": True}


@cache
def evenly_spread() -> DiscreteSampling:
    return build(sampling_index(**STRATIFIED))


def test_independent_draws_cover_all_timesteps_evenly() -> None:
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    index = build(sampling_index()).index(u, torch.zeros(1000, dtype=torch.long), 8)
    assert torch.equal(index, torch.arange(1000))


@settings(deadline=None)
@given(batch=st.integers(1, 64), u=st.floats(0, 1, exclude_max=True))
def test_one_stratum_per_sample_when_no_number_is_given(batch: int, u: float) -> None:
    position = torch.arange(batch)
    index = evenly_spread().index(torch.full((batch,), u, dtype=torch.float64), position, batch)
    low, high = position * 1000 / batch, (position + 1) * 1000 / batch
    assert ((index >= low.floor()) & (index < high.ceil())).all()


@pytest.mark.parametrize(
    ("group_num", "batch", "strata"), [(40, 80, 40), (40, 8, 8), (4, 8, 4), (3, 8, 8), (0, 16, 16)]
)
def test_strata_share_the_batch_evenly(group_num: int, batch: int, strata: int) -> None:
    assert build(sampling_index(group_num=group_num, **STRATIFIED)).strata(batch) == strata


def test_groups_are_consecutive_as_upstreams_ranks_are() -> None:
    sampling = build(sampling_index(group_num=2, **STRATIFIED))
    index = sampling.index(torch.full((4,), 0.5, dtype=torch.float64), torch.arange(4), 4)
    assert index.tolist() == [250, 250, 750, 750]


def test_ranks_change_nothing() -> None:
    sampling, u = build(sampling_index(**STRATIFIED)), torch.rand(8, dtype=torch.float64)
    whole = sampling.index(u, torch.arange(8), 8)
    parts = [sampling.index(u[i : i + 2], torch.arange(i, i + 2), 8) for i in range(0, 8, 2)]
    assert torch.equal(whole, torch.cat(parts))


def test_alpha_is_the_training_table() -> None:
    index = torch.tensor([0, 999])
    assert torch.equal(build(sampling_index()).alpha(index), build(discretization())(1000, flip=True)[index])
