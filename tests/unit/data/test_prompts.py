"""Prompt files with images: what a line may name, and what it says when it may not."""

from pathlib import Path

import pytest

from cogtune.config.errors import ConfigError
from cogtune.data.prompt_file import Line, read_prompts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prompt folder with dog.png; the working directory is another one, with cat.png; secret.png is outside of both."""
    for name in ("prompts/dog.png", "work/cat.png", "work/dog.png", "secret.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"png")
    (tmp_path / "prompts/link.png").symlink_to(tmp_path / "secret.png")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def lines(folder: Path, text: str) -> list[Line]:
    path = folder / "prompts/prompts.txt"
    path.write_text(text)
    return read_prompts(path, with_images=True)


def test_beside_the_file_first_then_in_the_working_directory(folder: Path) -> None:
    found = lines(folder, "a dog@@dog.png\n a cat @@ cat.png \n@@dog.png\n")
    assert found == [
        Line("a dog", folder / "prompts/dog.png"),
        Line("a cat", folder / "work/cat.png"),
        Line("", folder / "prompts/dog.png"),
    ]


def test_absolute_paths_inside_are_fine(folder: Path) -> None:
    assert lines(folder, f"a cat@@{folder}/work/cat.png")[0].image == folder / "work/cat.png"


@pytest.mark.parametrize("name", ["../secret.png", "{folder}/secret.png", "link.png", "/etc/passwd"])
def test_nothing_leads_out(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"args.input_file: .*prompts.txt:2: .* is outside of"):
        lines(folder, f"a dog@@dog.png\na secret@@{name.format(folder=folder)}\n")


@pytest.mark.parametrize("line", ["a dog", "a dog@@", "a@@dog.png@@dog.png", ""])
def test_a_line_without_its_image(folder: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"prompts.txt:2: .*expected caption@@image"):
        lines(folder, f"a dog@@dog.png\n{line}\nagain@@dog.png")


def test_an_image_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts.txt:1: no such image: 'x.png'; tried .*prompts/x.png, then"):
        lines(folder, "a dog@@x.png")


def test_without_images_a_line_is_a_caption(folder: Path) -> None:
    path = folder / "prompts.txt"
    path.write_text("a@@b\n")
    assert read_prompts(path) == [Line("a@@b")]
