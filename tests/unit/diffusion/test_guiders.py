from typing import Any

import pytest

from cogtune.config.build import build
from cogtune.errors import UserError
from tests.unit.diffusion.nodes import guider

# DynamicCFG(scale 6, exp 5, num_steps 50) as published, t = 999, 979, …, 19
PUBLISHED = """
2.2915 2.5435 6.9744 6.4204 2.7881 4.2719 1.0376 4.1704 1.6180 6.9831 1.0048 2.8720 6.9768 1.6331 4.3297 2.4366 6.3773
6.0068 3.4479 3.1981 1.6548 6.6100 1.1947 4.2953 6.9854 1.5213 1.7616 1.0579 4.1275 1.4823 2.0026 5.9477 4.1432 6.5305
6.1398 6.9999 6.1684 1.1199 2.0975 6.6850 6.9992 2.3432 6.2128 1.2505 6.9996 6.8644 1.0636 1.0000 1.0000 1.1234
"""


def test_dynamic_scale_as_published() -> None:
    dynamic = build(guider("DynamicCFG", scale=6, exp=5, num_steps=50))
    scales = [dynamic.scale(step, 999 - 20 * step, 50) for step in range(50)]
    assert scales == pytest.approx([float(word) for word in PUBLISHED.split()], abs=6e-5)


def test_dynamic_scale_as_a_ramp() -> None:
    ramp = build(guider("DynamicCFG", scale=6, exp=5, num_steps=50, schedule="step_index"))
    scales = [ramp.scale(step, 999 - 20 * step, 50) for step in range(50)]
    assert scales == sorted(scales)
    assert [scales[i] for i in (0, 25, 40, 45, 49)] == pytest.approx([1, 1.014, 2.454, 4.841, 6.864], abs=1e-3)


def test_constant_and_none() -> None:
    assert build(guider("VanillaCFG", scale=6)).scale(3, 500, 50) == 6
    assert build(guider("IdentityGuider")).scale(3, 500, 50) is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"schedule": "linear"}, "step_index"),
        ({"exp": 4.5}, "integer"),
        ({"dyn_thresh_config": {"target": "sgm.x.Clip"}}, "dyn_thresh_config"),
    ],
)
def test_refusals(params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(guider("DynamicCFG", **({"scale": 6, "exp": 5, "num_steps": 50} | params)))
