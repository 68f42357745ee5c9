"""The split of rows into parts."""

import random
import re
from pathlib import Path

import pytest

from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.work.parts import MOST_PARTS, Part, check_scatter, read_part
from cogtune.work.stages import STAGES

REPO = Path(__file__).parents[3]


def test_the_parts_are_an_even_partition() -> None:
    for seed in range(500):
        draw = random.Random(seed)
        count = draw.choice([1, 2, 3, 7, 8, draw.randint(1, 60)])
        items = sorted(f"{draw.getrandbits(64):016x}" for _ in range(draw.choice([0, 1, 2, 3, draw.randint(0, 200)])))
        parts = [Part(number, count).of(items) for number in range(1, count + 1)]
        assert [item for part in parts for item in part] == items, "each item in exactly one part"
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert parts == [Part(number, count).of(list(items)) for number in range(1, count + 1)], "always the same"


@pytest.mark.parametrize("text", ["1-of-1", "2-of-8", f"{MOST_PARTS}-of-{MOST_PARTS}"])
def test_a_part_is_read_as_it_is_written(text: str) -> None:
    assert str(read_part(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "x", "2", "0-of-2", "3-of-2", "1-of-0", "-1-of-2", "1-of-2-of-3", "1 of 2", "1-of-x", "1.5-of-2", " 1-of-2",
     "1-of-2\n", "²-of-3", "1-of-99999999999", f"1-of-{MOST_PARTS + 1}", "../1-of-2", "1/2"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected I-of-N, .* found"):
        read_part(text)


def test_stages_with_parts_have_a_rule_for_them() -> None:
    rules = "".join(path.read_text() for path in (REPO / "workflow/rules").glob("*.smk"))
    cut = {name for name, stage in STAGES.items() if stage.parts}
    assert set(re.findall(r"^use rule ([a-z]+) as \1_part with:$", rules, re.MULTILINE)) == cut
    assert set(re.findall(r'ancient\(part_receipts\("([a-z]+)"\)\)', rules)) == cut
    for name in cut:
        assert f'threads: gather_cores("{name}")' in rules
        assert f'part_receipt("{name}"),' in rules
        assert f"cogtune {name} --slice {{params.slice:q}} --run {{params.run:q}} --receipt {{output:q}} --log" in rules


@pytest.mark.parametrize("count", [0, -1, MOST_PARTS + 1])
def test_numbers_of_parts_are_checked(count: int) -> None:
    check_scatter("--set-scatter", {"latents": 1, "sample": MOST_PARTS})
    with pytest.raises(ConfigError, match=rf"--set-scatter text={count}: expected text=N"):
        check_scatter("--set-scatter", {"text": count})
    with pytest.raises(ConfigError, match="'train' is not a stage with parts; expected one of preprocess, latents"):
        check_scatter("--set-scatter", {"train": 2})
