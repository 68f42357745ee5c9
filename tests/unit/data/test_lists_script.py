"""The script of docs/data.md, run on the lists that it names."""

import re
from pathlib import Path

import pytest

from cogtune.data.listing import list_videos
from cogtune.data.scan import caption_of

SCRIPT = re.search(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/data.md").read_text(), re.S)


@pytest.mark.parametrize("folder", ["videos/", ""])
def test_the_script_converts_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    (tmp_path / "videos.txt").write_text(f"{folder}a.mp4\n{folder}b.mp4\n")
    (tmp_path / "prompt.txt").write_text('a "dog", and a cat\nzwölf\n', encoding="utf-8")
    for name in "ab":
        path = tmp_path / f"{folder}{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    assert SCRIPT is not None
    exec(compile(SCRIPT[1], "docs/data.md", "exec"), {})
    captions = [caption_of(video) for video in list_videos(tmp_path) if not video.files]
    assert captions == ['a "dog", and a cat', "zwölf"]
