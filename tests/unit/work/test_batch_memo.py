"""The global batch that a training began with."""

from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_json
from cogtune.work.batches import BatchMemo, BatchPlan

FIRST, SECOND = "a" * 12, "b" * 12


@pytest.fixture
def memo(tmp_path: Path) -> BatchMemo:
    return BatchMemo(tmp_path, "0123456789ab")


def test_the_first_training_decides(memo: BatchMemo):
    assert memo.read() is None
    (memo.store / "train" / FIRST).mkdir(parents=True)
    memo.write(4, FIRST)
    memo.write(8, SECOND)
    assert memo.read() == (4, FIRST)


def test_it_ends_with_its_training(memo: BatchMemo):
    (memo.store / "train" / FIRST).mkdir(parents=True)
    memo.write(4, FIRST)
    (memo.store / "train" / FIRST).rmdir()
    assert memo.read() is None
    (memo.store / "train" / SECOND).mkdir()
    memo.write(8, SECOND)
    assert memo.read() == (8, SECOND)


def test_a_memo_of_an_older_version_names_no_training_and_holds(memo: BatchMemo):
    write_json(memo.path, {"global_batch_size": 4})
    assert memo.read() == (4, "")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"global_batch_size"'])
def test_a_damaged_one_is_named(memo: BatchMemo, text: str):
    memo.path.parent.mkdir()
    memo.path.write_text(text)
    with pytest.raises(UserError, match=r"0123456789ab\.batch\.json: .*; delete it, or set args\.global_batch_size"):
        memo.read()


def test_a_plan_in_words():
    assert str(BatchPlan(1, 4, 1)) == "4 clips a step = 1 x 4 accumulation x 1 rank"
    assert str(BatchPlan(2, 1, 8)) == "16 clips a step = 2 x 1 accumulation x 8 ranks"
