"""Prompts as typed or from a file, the ids of their videos, and the names of their files."""

from pathlib import Path

import pytest

from cogtune.data.prompt_file import read_prompts
from cogtune.errors import UserError
from cogtune.work.prompt_rows import asked_prompts, file_names, rows_of, too_long


def content(path: Path) -> str:
    return path.read_text()


@pytest.mark.parametrize(
    "written",
    [
        b"a wave\na stripe",
        b"a wave\na stripe\n",
        b"\xef\xbb\xbfa wave\r\na stripe\r\n",
        b"a wave\ra stripe\r",
        b"  a wave\t\n a stripe \n",
    ],
)
def test_a_file_reads_the_same_however_it_was_saved(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(written)
    assert [line.caption for line in read_prompts(path)] == ["a wave", "a stripe"]
    assert [one.line.caption for one in asked_prompts([], path, None, False).prompts] == ["a wave", "a stripe"]


def test_only_line_ends_separate_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\u2028b\x0bc\x85d\n", encoding="utf-8")
    assert len(read_prompts(path)) == 1


def test_all_wrong_lines_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    path = tmp_path / "prompts.txt"
    path.write_text("sea@@a.png\n\nfog\n @@ a.png\nx@@y@@z\nq@@none.png\nr@@/etc/passwd\n")
    with pytest.raises(UserError) as told:
        asked_prompts([], path, None, takes_image=True).refuse({})
    lines = str(told.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [f"{path}:{n}" for n in (2, 3, 4, 5, 6, 7)]
    assert "expected caption@@image" in lines[0]
    assert lines[2].endswith("empty; remove the line")
    assert "no such image: 'none.png'" in lines[4]
    assert "is outside of" in lines[5]


@pytest.mark.parametrize(
    ("text", "takes_image", "message"),
    [
        ("", False, "--prompt 2: empty"),
        (" \t", False, "--prompt 2: empty"),
        ("a@@b.png", False, "--prompt 2: contains @@.*a text-to-video model takes no image"),
        ("a@@b.png", True, "--prompt 2: contains @@.*--image gives the image"),
        ("a\0b", False, "--prompt 2: contains a NUL character"),
        ("a\udce9", False, "--prompt 2: is not valid UTF-8"),
    ],
)
def test_a_prompt_that_cannot_be_sampled(text: str, takes_image: bool, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        asked_prompts(["fine", text], None, tmp_path / "a.png" if takes_image else None, takes_image).refuse({})


@pytest.mark.parametrize(("bytes_", "message"), [(b"caf\xe9", "is not UTF-8 text .line 1"), (b"", "is empty")])
def test_a_file_that_cannot_be_read(bytes_: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(bytes_)
    with pytest.raises(UserError, match=f"--prompts: .*prompts.txt {message}"):
        asked_prompts([], path, None, False)


def test_long_prompts_are_listed_with_all_other_wrong_ones(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a b c d\n\nsea\na b c\n")
    reading = asked_prompts(["a b", "a b c d e"], path, None, False)
    long = too_long(reading.prompts, lambda text: len(text.split()), 2)
    with pytest.raises(UserError) as refusal:
        reading.refuse({"--negative": "3 tokens", **long})
    assert [line.split(";")[0].strip() for line in str(refusal.value).splitlines()[1:]] == [
        "--prompt 2: 5 tokens",
        f"{path}:1: 4 tokens",
        f"{path}:2: empty",
        f"{path}:4: 3 tokens",
        "--negative: 3 tokens",
    ]


def test_rows_are_distinct_and_stable(tmp_path: Path) -> None:
    """Everything that changes a video changes its id, and nothing else does: where a prompt stands, or other prompts."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    text = asked_prompts(["sea", "fog", "sea"], None, None, False).prompts
    assert [one.line.caption for one in text] == ["sea", "fog"]
    rows = rows_of(text, [0, 0.5, 1, 1.0, -0.0], [1, 2, 1], None, content)
    assert len({row.id for row in rows}) == len(rows) == 2 * 3 * 2
    alone = rows_of(asked_prompts(["fog"], None, None, False).prompts, [0.5], [2], None, content)
    assert alone[0] in rows
    negative = rows_of(text, [0.5], [2], "blurred", content)
    empty = rows_of(text, [0.5], [2], "", content)
    images = [
        rows_of(asked_prompts(["fog"], None, tmp_path / name, True).prompts, [0.5], [2], None, content)
        for name in ("a", "b")
    ]
    others = [row.id for made in (negative, empty, *images) for row in made]
    assert len({*others, *(row.id for row in rows)}) == len(others) + len(rows)


def test_file_names_are_readable_and_distinct() -> None:
    asked = asked_prompts(
        ["A rabbit waves!", "a rabbit waves", "../../x; rm -rf", "\U0001f407"], None, None, False
    ).prompts
    rows = rows_of(asked, [0.5, 0.1234567, 0.1234568], [7, 8], None, content)
    names = file_names(rows)
    assert names[rows[0].id] == "01-a-rabbit-waves_strength-0.5_seed-7.mp4"
    assert len(set(names.values())) == len(rows)
    assert {name.partition("_")[0] for name in names.values()} == {
        "01-a-rabbit-waves",
        "02-a-rabbit-waves",
        "03-x-rm-rf",
        "04-prompt",
    }
