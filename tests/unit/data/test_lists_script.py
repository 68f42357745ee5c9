"""The script of docs/data.md, run on each list that it names."""

import re
from pathlib import Path

import pytest

from cogtune.data.listing import list_videos
from cogtune.data.scan import read_caption

SCRIPT = re.search(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/data.md").read_text(), re.S)
LISTS = {
    "metadata.csv": {"metadata.csv": 'file_name,text\n{at}a.mp4,"a dog, and a cat"\n{at}b.mp4,zwölf\n'},
    "metadata.jsonl": {
        "metadata.jsonl": '{{"file_name": "{at}a.mp4", "text": "a dog, and a cat"}}\n{{"file_name": "{at}b.mp4", "text": "zwölf"}}\n'
    },
    "videos.txt": {"videos.txt": "{at}a.mp4\n{at}b.mp4\n", "prompt.txt": "a dog, and a cat\nzwölf\n"},
}


@pytest.mark.parametrize("at", ["videos/", ""])
@pytest.mark.parametrize("kind", LISTS)
def test_the_script_writes_the_captions_of_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, at: str
) -> None:
    for name, content in LISTS[kind].items():
        (tmp_path / name).write_text(content.format(at=at), encoding="utf-8")
    for name in "ab":
        path = tmp_path / f"{at}{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    assert SCRIPT is not None
    exec(compile(SCRIPT[1], "docs/data.md", "exec"), {})
    captions = [read_caption(video.label) for video in list_videos(tmp_path) if not video.files]
    assert captions == ["a dog, and a cat", "zwölf"]
