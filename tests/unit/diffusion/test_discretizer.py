from typing import Any

import numpy as np
import pytest
import torch

from cogtune.config.build import build
from cogtune.errors import UserError
from tests.unit.diffusion.nodes import discretization


def naive_table(n: int, shift: float = 1.0, keep_start: bool = False, post_shift: bool = False) -> np.ndarray:
    """The schedule by its definition, one timestep after the other, in plain floats; ascending timesteps."""
    start, end = 0.00085, 0.0120
    if keep_start and not post_shift:
        start = start / (shift + (1 - shift) * start)
    product, bars = 1.0, []
    for k in range(1000):
        product *= 1 - (start**0.5 + (end**0.5 - start**0.5) * k / 999) ** 2
        bars.append(product)
    if not post_shift:
        bars = [1 / (1 + shift * (1 - bar) / bar) for bar in bars]  # SNR / shift
    chosen = range(1000) if n == 1000 else sorted(int(999 - 999 / n * j) for j in range(n))
    a = np.sqrt([bars[k] for k in chosen])
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    if post_shift:
        a = np.sqrt([0.0 if x == 0 else 1 / (1 + shift * (1 - x * x) / (x * x)) for x in a])
    return a


@pytest.mark.parametrize("n", [6, 50, 1000])
@pytest.mark.parametrize(
    "params",
    [{}, {"shift_scale": 3.0}, {"shift_scale": 3.0, "keep_start": True}, {"shift_scale": 3.0, "post_shift": True}],
)
def test_equals_the_definition(n: int, params: dict[str, Any]) -> None:
    renamed = {"shift" if key == "shift_scale" else key: value for key, value in params.items()}
    table = build(discretization(**params))(n, flip=True)
    assert table.dtype == torch.float64
    np.testing.assert_allclose(table.numpy(), naive_table(n, **renamed), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "shift", "entry", "value"),
    [
        (1000, 1.0, 0, 0.9995749), (1000, 3.0, 0, 0.9987264), (1000, 1.0, 19, 0.990460), (50, 1.0, 0, 0.991082),
        (1000, 1.0, 499, 0.492300), (50, 1.0, 24, 0.492609), (1000, 1.0, 979, 0.0092622), (50, 1.0, 48, 0.0092680),
        (1000, 3.0, 19, 0.972920), (50, 3.0, 0, 0.973940), (1000, 3.0, 499, 0.309790), (50, 3.0, 24, 0.310114),
    ],
)  # fmt: skip
def test_upstream_figures(n: int, shift: float, entry: int, value: float) -> None:
    assert float(build(discretization(shift_scale=shift))(n, flip=True)[entry]) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 6, 50, 999, 1000])
def test_rises_from_no_signal(n: int) -> None:
    schedule = build(discretization(shift_scale=3.0))
    a = schedule(n)
    assert a[0] == 0
    assert (a.diff() > 0).all()
    assert a[-1] < 1
    assert torch.equal(a.flip(0), schedule(n, flip=True))


def test_timesteps_are_trailing() -> None:
    schedule = build(discretization())
    assert schedule.timesteps(50) == list(range(19, 1000, 20))
    assert schedule.timesteps(1000) == list(range(1000))
    assert schedule.timesteps(7)[-1] == 999


@pytest.mark.parametrize("n", [0, 1001])
def test_refuses_more_levels_than_timesteps(n: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 1000"):
        build(discretization())(n)
