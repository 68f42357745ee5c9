import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cogtune.errors import UserError
from cogtune.sampling import prompts
from cogtune.work.inputs import SampleInput
from cogtune.work.load import load_config
from cogtune.work.stage_input import read_input
from cogtune.work.variants import Variant, variants

TINY = Path(__file__).parents[2] / "workflow" / "tiny.yaml"


@dataclass(frozen=True)
class Pair:
    clip: str
    caption: str
    split: str = "train"

    @property
    def caption_id(self) -> str:
        return hashlib.sha256(self.caption.encode()).hexdigest()


PAIRS = [
    Pair("aa" * 32, "a dog"),
    Pair("bb" * 32, "a cat"),
    Pair("cc" * 32, "rain"),
    Pair("dd" * 32, "held out", "valid"),
]


def given(**args: object) -> SampleInput:
    """What the sample stage would be given, by keys of `args`."""
    values = load_config([TINY], check_files=False).values
    return read_input(SampleInput, values | {"args": values["args"] | args})


def test_prompts_are_the_first_training_pairs_each_once():
    found = prompts.of_data_set([*PAIRS[:2], PAIRS[0], *PAIRS[2:]], None)
    assert [prompt.caption for prompt in found] == ["a dog", "a cat", "rain"]
    assert [prompt.clip for prompt in found] == [pair.clip for pair in PAIRS[:3]]
    assert prompts.of_data_set(PAIRS, 2) == found[:2]


def test_one_clip_with_two_captions_makes_two_samples():
    found = prompts.of_data_set([Pair("aa" * 32, "a dog"), Pair("aa" * 32, "a brown dog")], None)
    assert len({prompt.id for prompt in found}) == 2


def test_each_control_changes_one_thing():
    assert variants(["base", "shuffled", "null", "guided"], guided=False, prompts=3) == [
        Variant("tuned"),
        Variant("base", weights="base"),
        Variant("shuffled", context="next"),
        Variant("null", context="none"),
        Variant("guided", guided=True),
    ]


def test_controls_that_say_nothing_are_left_out():
    names = [variant.name for variant in variants(["guided", "shuffled", "base"], guided=True, prompts=1)]
    assert names == ["tuned", "base"]


def test_unknown_control():
    with pytest.raises(UserError, match=r"sampling_controls.*'bse'.*base"):
        variants(["bse"], guided=False, prompts=2)


def test_contexts_own_rotated_and_none():
    found = prompts.of_data_set(PAIRS, None)
    ids = [prompt.caption_id for prompt in found]
    seen = {
        name: [prompts.context_id(found, i, Variant(name, context=name)) for i in range(3)]
        for name in ("own", "next", "none")
    }
    assert seen == {"own": ids, "next": [*ids[1:], ids[0]], "none": [None] * 3}


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(5, 2, [[0, 1], [2, 3], [4]]), (2, 8, [[0, 1]]), (1, 0, [[0]])]
)
def test_batches(count: int, size: int, expected: list[Any]):
    assert list(prompts.prompt_batches(prompts.of_data_set(PAIRS, None)[:1] * count, size)) == expected


def test_prompt_file(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("a dog \n\n../../etc/passwd\n")
    found = prompts.of_file(path)
    assert [(prompt.id, prompt.caption, prompt.clip) for prompt in found] == [
        ("prompt-00000", "a dog", None),
        ("prompt-00001", "", None),
        ("prompt-00002", "../../etc/passwd", None),
    ]
    assert found[0].caption_id == PAIRS[0].caption_id


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_prompt_file_that_cannot_be_used(tmp_path: Path, content: bytes | None):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"args.input_file: .*prompts.txt"):
        prompts.of_file(path)


def test_prompts_with_images(tmp_path: Path):
    (tmp_path / "dog.png").touch()
    (tmp_path / "prompts.txt").write_text("a dog @@ dog.png\n")
    found = prompts.select_prompts(
        given(input_type="txt", input_file=str(tmp_path / "prompts.txt"), image2video=True), PAIRS
    )
    assert [(prompt.caption_id, prompt.image) for prompt in found] == [(PAIRS[0].caption_id, tmp_path / "dog.png")]


def test_empty_data_sets_are_refused():
    with pytest.raises(UserError, match="sampling_count"):
        prompts.select_prompts(given(sampling_count=0), PAIRS)
