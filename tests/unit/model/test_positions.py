import math

import pytest
import torch

from cogtune.model.positions import Rotation, rotary_3d, rotate, sincos_3d


def test_sincos_rows_are_time_width_height() -> None:
    """Row (t, h, w): each axis [sin | cos] of position / interpolation times 10000^(-k / (d/2)), in plain floats."""
    table = sincos_3d((2, 3, 4), 32, (1.0, 1.875, 2.5))
    assert table.shape == (24, 32)
    assert table.dtype == torch.float64
    t, h, w = 1, 2, 3
    expected = []
    for position, width in ((t, 8), (w / 2.5, 12), (h / 1.875, 12)):
        angles = [position * 10000 ** (-k / (width / 2)) for k in range(width // 2)]
        expected += [math.sin(x) for x in angles] + [math.cos(x) for x in angles]
    assert table[(t * 3 + h) * 4 + w].tolist() == pytest.approx(expected, abs=1e-12)


def test_rotation_turns_neighbouring_pairs() -> None:
    turns = rotary_3d((2, 3, 4), 16, 10000.0, torch.device("cpu"))
    t, h, w = 1, 2, 3
    token = (t * 3 + h) * 4 + w
    x = torch.randn(1, 24, 2, 16)
    given = rotate(x, Rotation.by(turns))[0, token, 1]
    angles = [p * 10000 ** (-2 * j / width) for p, width in ((t, 4), (h, 6), (w, 6)) for j in range(width // 2)]
    for j, angle in enumerate(angles):
        even, odd = x[0, token, 1, 2 * j].item(), x[0, token, 1, 2 * j + 1].item()
        turned = (even * math.cos(angle) - odd * math.sin(angle), odd * math.cos(angle) + even * math.sin(angle))
        assert given[2 * j : 2 * j + 2].tolist() == pytest.approx(turned, abs=1e-5)


def test_only_differences_of_positions_count() -> None:
    turns = Rotation.by(rotary_3d((4, 4, 4), 16, 10000.0, torch.device("cpu")))
    q, k = torch.randn(2, 16)

    def score(i: int, j: int) -> float:
        whole_q, whole_k = (x.expand(1, 64, 1, 16) for x in (q, k))
        return float((rotate(whole_q, turns)[0, i, 0] * rotate(whole_k, turns)[0, j, 0]).sum())

    assert score(0, 21) == pytest.approx(score(21, 42), abs=1e-4)


def test_a_smaller_grid_is_the_corner_of_a_larger_one() -> None:
    device = torch.device("cpu")
    large = rotary_3d((5, 6, 7), 16, 10000.0, device).view(5, 6, 7, 8)
    assert torch.equal(rotary_3d((2, 3, 4), 16, 10000.0, device).view(2, 3, 4, 8), large[:2, :3, :4])
