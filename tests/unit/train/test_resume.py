"""A training that stops under one number of ranks and ZeRO stage, and goes on under another.

The same number and stage: the same bytes. Others: the losses of the undisturbed training, within 1e-5 in fp32, and in bf16
within 1 %, and no farther from it than an undisturbed training under the other number and stage is.
"""

import itertools
from functools import partial
from pathlib import Path

import pytest

from cogtune.work.engine_keys import VOLATILE_KEYS
from tests.forked import forked
from tests.unit.train.resumed import ODD, STEPS, STOP, Case, result, run

pytestmark = pytest.mark.heavy

PAIRS = [
    (Case(2, 2, "bf16"), Case(2, 2, "bf16")),
    (Case(4, 3, "fp32"), Case(4, 3, "fp32")),
    (Case(1, 0, "fp32"), Case(4, 3, "fp32")),
    (Case(4, 3, "fp32"), Case(1, 0, "fp32")),
    (Case(2, 2, "bf16"), Case(4, 1, "bf16", offload=True)),
    (Case(4, 1, "bf16", offload=True), Case(2, 3, "bf16")),
    (Case(2, 3, "bf16"), Case(1, 0, "bf16")),
    (Case(1, 0, "bf16"), Case(2, 2, "bf16", offload=True)),
]
OTHER_KEYS = [(Case(2, stage, "fp32"), Case(2, stage, "fp32", odd=True)) for stage in (2, 3)]
ALL = [
    Case(ranks, stage, precision, offload)
    for precision, ranks, stage in itertools.product(("fp32", "bf16"), (1, 2, 4), range(4))
    for offload in (False, True)
    if stage or not offload
]
OTHERS = ["NAdam", "ASGD", "Adafactor", "Blocks"]
"""Optimizers with other states: two numbers; three numbers and an average; rows and columns; blocks, which cannot be cut."""
BF16_NOISE = 2**-10
"""A quarter of the distance of two numbers in bf16; sums of a few such roundings."""


def off(losses: list[float], others: list[float]) -> float:
    """Largest difference, as a share."""
    return max(abs(loss / other - 1) for loss, other in zip(losses, others, strict=True))


def difference(root: Path, source: Case, target: Case) -> float:
    """Checks a pair; returns the largest difference of its losses from those of the undisturbed training."""
    there, here, whole = result(root, source, target), result(root, target), result(root, source)
    pair = f"{source.name} -> {target.name}"
    assert there["rounded"], f"{pair}: the weights are not the masters, rounded"
    if source == target:
        assert there["losses"] == whole["losses"][STOP:], pair
        assert there["tensors"] == whole["tensors"], pair
        return 0.0
    distance = off(there["losses"], whole["losses"][STOP:])
    if source.precision == "fp32":
        assert distance < 1e-5, f"{pair}: {distance:.2g}"
        assert there["tensors"]["None"] == pytest.approx(whole["tensors"]["None"], abs=1e-5), pair
    else:
        undisturbed = off(here["losses"][STOP:], whole["losses"][STOP:])
        assert distance < 0.01, f"{pair}: {distance:.2g}"
        assert distance <= undisturbed + BF16_NOISE, (
            f"{pair}: {distance:.2g}, an undisturbed training {undisturbed:.2g}"
        )
    return distance


def trained(root: Path, pairs: list[tuple[Case, Case]], seconds: float = 240) -> None:
    code, output = forked(partial(run, str(root), pairs), root / "output.txt", seconds)
    assert code == 0, output[-5000:]


def test_eight_pairs(tmp_path: Path) -> None:
    trained(tmp_path, PAIRS)
    assert len(result(tmp_path, PAIRS[0][0])["losses"]) == STEPS
    for source, target in PAIRS:
        difference(tmp_path, source, target)


def test_volatile_keys_do_not_change_a_training(tmp_path: Path) -> None:
    """All of those with which ZeRO sends and places numbers, at once."""
    zero = {key.split(".")[1] for key in VOLATILE_KEYS if key.startswith("zero_optimization.")}
    unused = {"load_from_fp32_weights", "round_robin_gradients", "ignore_unused_parameters", "zero_hpz_partition_size"}
    assert zero - ODD.keys() - unused == {"stage", "offload_optimizer", "offload_param"}
    trained(tmp_path, OTHER_KEYS)
    for source, target in OTHER_KEYS:
        difference(tmp_path, source, target)
        assert off(result(tmp_path, target)["losses"], result(tmp_path, source)["losses"]) < 1e-5


def test_optimizers_with_other_states(tmp_path: Path) -> None:
    """Without ZeRO any state fits any number of ranks. With ZeRO one that cannot be cut needs the same ranks and stage."""
    whole = [(Case(2, 0, "fp32", optimizer=name), Case(1, 0, "fp32", optimizer=name)) for name in OTHERS]
    cut = [
        (Case(2, 1, "fp32", optimizer=name), Case(1, 2, "fp32", optimizer=name))
        for name in OTHERS
        if name != "Adafactor"
    ]  # it looks at whole tensors
    same = [(source, source) for source, _ in cut]
    trained(tmp_path, [*whole, *cut, *same])
    for source, target in [*whole, *cut[:-1], *same]:
        difference(tmp_path, source, target)
    refused = result(tmp_path, *cut[-1])["error"]
    assert "the optimizer's state 'scales' cannot be cut for another number of ranks or another ZeRO stage" in refused
    assert refused.endswith("resume with 2 ranks and the stage of that run")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_pairs(tmp_path: Path, precision: str) -> None:
    """Prints a table: rows where it stopped, columns where it goes on; the largest difference, offload or not."""
    cases = [case for case in ALL if case.precision == precision]
    pairs = list(itertools.product(cases, cases))
    trained(tmp_path, pairs, seconds=3600)
    largest: dict[tuple[str, str], float] = {}
    for source, target in pairs:
        place = f"{source.ranks}x{source.stage}", f"{target.ranks}x{target.stage}"
        largest[place] = max(largest.get(place, 0.0), difference(tmp_path, source, target))
    names = list(dict.fromkeys(name for name, _ in largest))
    print(f"\n{precision:>6} " + " ".join(f"{name:>8}" for name in names))
    for name in names:
        print(f"{name:>6} " + " ".join(f"{largest[name, other]:8.1e}" for other in names))
