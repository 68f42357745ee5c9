"""`config show` of every shipped file, word for word: an edit of a file, a default or a name shows up as a diff.

After a change that is meant: `make golden`, look at `git diff`, commit.
"""

import os
from pathlib import Path

import pytest

from cogtune.commands.config_show import as_yaml
from cogtune.work.load import load_config

REPO = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
PARTS = {"config/cogvideox_common.yaml", "config/lora.yaml", "config/config.yaml"}
"""No configs by themselves: the first two are merged into others, the last names experiments."""
FILES = sorted(
    str(path.relative_to(REPO))
    for path in [*REPO.glob("config/*.yaml"), *REPO.glob("config/tiny/*.yaml")]
    if str(path.relative_to(REPO)) not in PARTS
)


def shown(file: str) -> str:
    return as_yaml(load_config([file], check_files=False, partial=True))


def golden(file: str) -> Path:
    return GOLDEN / file.removeprefix("config/").replace("/", "-")


@pytest.mark.parametrize("file", FILES)
def test_shown_as_before(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)  # origins are relative to where one stands
    assert shown(file) == golden(file).read_text(), "meant? then: make golden"


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {golden(file).name for file in FILES}


if __name__ == "__main__":
    os.chdir(REPO)
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.iterdir():
        path.unlink()
    for name in FILES:
        golden(name).write_text(shown(name))
