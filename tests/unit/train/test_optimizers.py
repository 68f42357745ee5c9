"""An optimizer is accepted at a ZeRO stage exactly if two ranks give there the weights that one rank gives."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogtune.config.optimizers import ON_TENSORS, STAGES
from cogtune.config.registry import names

pytestmark = pytest.mark.heavy

REPO = Path(__file__).parents[3]
TOLERANCE = {"AdamW8bit": 1e-2}
FP32 = 1e-5
ROWS = {name: row for name, row in STAGES.items() if name != "AdamW8bit" or find_spec("bitsandbytes")}
ROWS |= {"Lamb": ON_TENSORS}
CASES = [(name, stage) for name in ROWS for stage in range(4)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[tuple[str, int], Tensor]]:
    """Ranks -> case -> weights after the same steps. Each number of ranks starts once, for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = []
    for ranks in (1, 2):
        for rank in range(ranks):
            words = [str(folder / f"meeting-{ranks}"), str(rank), str(ranks), str(folder / f"weights-{ranks}.pt")]
            command = [sys.executable, "-m", "tests.unit.train.optimizer_steps", *words]
            errors = (folder / f"errors-{ranks}-{rank}").open("w+")
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, text=True, cwd=REPO
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(CASES))
            process.stdin.close()
            processes.append((process, errors))
    for process, errors in processes:
        assert process.wait(timeout=300) == 0, (errors.seek(0), errors.read()[-3000:])
    loaded = {ranks: torch.load(folder / f"weights-{ranks}.pt") for ranks in (1, 2)}
    return {ranks: dict(zip(CASES, tensors, strict=True)) for ranks, tensors in loaded.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_accepted_where_two_ranks_give_the_weights_of_one(
    weights: dict[int, dict[tuple[str, int], Tensor]], case: tuple[str, int]
) -> None:
    name, stage = case
    one, two = weights[1][case], weights[2][case]
    difference = float((one - two).norm() / one.norm())
    assert (difference < TOLERANCE.get(name, FP32)) == (ROWS[name][stage] == ""), difference


@pytest.mark.parametrize("name", [name for name in STAGES if name in ROWS])
def test_no_stage_changes_the_weights(weights: dict[int, dict[tuple[str, int], Tensor]], name: str) -> None:
    whole = weights[1][name, 0]
    for stage in (1, 2, 3):
        difference = float((weights[1][name, stage] - whole).norm() / whole.norm())
        assert difference < TOLERANCE.get(name, FP32), stage


def test_every_optimizer_has_a_row() -> None:
    assert STAGES.keys() == set(names("optimizer"))
    assert all(row.keys() == {0, 1, 2, 3} for row in STAGES.values())
