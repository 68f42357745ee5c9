"""Files in a data folder that are not videos, counted by kind, so that none is ignored silently."""

import shlex
from dataclasses import dataclass, field

from cogtune.data.caption_list import NAMES

_CONVERT = "not read; convert each, such as `ffmpeg -i {name} {video}`"
_REMUX = "not read; repack each, such as `ffmpeg -i {name} -c copy {video}`"
_UNPACK = "not read; unpack it into the data folder"
_PICTURE = "not read, since a clip is a video; image to video takes each clip's own first frame"
_LIST = (
    f"not read; captions are read from {NAMES} in the data folder itself, or from labels/x.txt for videos/x.mp4; "
    f"docs/data.md says how to convert a list"
)
_OTHER = "not read"
_EXAMPLES = 3

_ADVICE = (
    (_REMUX, ".ts .mts .m2ts .flv .f4v .3gp .3g2 .vob"),
    (_CONVERT, ".gif .mpg .mpeg .m2v .wmv .asf .ogv .ogm .rm .rmvb .mxf .y4m .webp .apng .divx .dv"),
    (_PICTURE, ".png .jpg .jpeg .bmp .tif .tiff .heic .avif"),
    (_UNPACK, ".tar .zip .tgz .gz .bz2 .xz .zst .7z .rar"),
    (_LIST, ".csv .tsv .json .jsonl .parquet .arrow .xlsx"),
)
_KINDS = {suffix[1:]: (suffix[1:], advice) for advice, suffixes in _ADVICE for suffix in suffixes.split()}
LISTS = frozenset({"videos.txt", "video.txt", "prompt.txt", "prompts.txt", "captions.txt"})
"""Names of lists with one line per clip, as the trainers of diffusers and finetrainers read them."""


@dataclass
class OtherFiles:
    """The other files in one data folder, by the kinds of the table and one kind for all others."""

    _seen: dict[str, tuple[int, list[str], str]] = field(default_factory=dict)

    def add(self, suffix: str, path: str) -> None:
        """Count a file that is neither a video nor a text. ``suffix``: in lower case, without the dot."""
        self._count(*_KINDS.get(suffix, ("", _OTHER)), path)

    def add_list(self, path: str) -> None:
        """Count a text file that is a list, not a caption."""
        self._count("list", _LIST, path)

    def lines(self) -> list[tuple[str, int, str]]:
        """(pattern of names, number of files, message) of each kind, sorted by kind."""
        kinds = []
        for kind, (count, paths, advice) in sorted(self._seen.items()):
            pattern = {"list": "lists", "": "other files"}.get(kind, f"*.{kind}")
            first, *names = [path.encode("utf-8", "backslashreplace").decode() for path in paths]
            names = [name.rpartition("/")[2] for name in [first, *names]]
            advice_text = advice.format(
                name=shlex.quote(names[0]), video=shlex.quote(f"{names[0].rpartition('.')[0]}.mp4")
            )
            examples = ", ".join([first, *names[1:]]) + ", …" * (count > len(names))
            kinds.append((pattern, count, f"{count} file{'s' * (count > 1)} ({examples}): {advice_text}"))
        return kinds

    def _count(self, kind: str, advice: str, path: str) -> None:
        count, paths, _ = self._seen.get(kind, (0, [], advice))
        if count < _EXAMPLES:
            paths.append(path)
        self._seen[kind] = (count + 1, paths, advice)
