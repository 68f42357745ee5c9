"""A decoded frame as people see it: rotated and mirrored as its display matrix says, in RGB.

ffmpeg's own filters do both, with the arguments that its command line gives them (`configure_input_video_filter`), so
the bytes are ffmpeg's, 10 bit and full range included.
"""

import math
import struct
from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

from cogtune.data.video import VideoError

Filter = tuple[str, str]


def upright(matrix: tuple[int, ...]) -> list[Filter]:
    """The filters that ffmpeg applies for a display matrix (9 numbers, 16.16 fixed point). Raises VideoError for an
    angle that is no quarter turn."""
    a, b, _, c, d, *_ = matrix
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return []
    turn = round(math.degrees(math.atan2(b / down, a / across))) % 360
    if abs(turn - 90) < 1:
        return [("transpose", "cclock_flip" if c > 0 else "clock")]
    if abs(turn - 180) < 1:
        return [(name, "") for name, value in (("hflip", a), ("vflip", d)) if value < 0]
    if abs(turn - 270) < 1:
        return [("transpose", "clock_flip" if c < 0 else "cclock")]
    if 1 < turn < 359:
        raise VideoError(f"rotated by {turn} degrees; only quarter turns are supported")
    return [("vflip", "")] if d < 0 else []


class Painter:
    """Turns decoded frames into RGB. One graph of filters serves as long as the frames are of one kind."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] | None = None
        self._graph: Any = None
        self.turned = False
        """Whether the latest frame had to be turned or mirrored."""

    def paint(self, frame: Any) -> np.ndarray:
        """uint8 (H, W, 3). Raises VideoError."""
        data = frame.side_data.get(Type.DISPLAYMATRIX)
        matrix = struct.unpack("=9i", bytes(data)[:36]) if data is not None else ()
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, matrix)
        if kind != self._kind:
            filters = upright(matrix) if matrix else []
            self._graph, self._kind, self.turned = _graph(frame, filters), kind, bool(filters)
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()


def _graph(frame: Any, filters: list[Filter]) -> Any:
    graph = Graph()
    last = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base),
        pixel_aspect="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )
    for name, arguments in [*filters, ("format", "pix_fmts=rgb24"), ("buffersink", "")]:
        following = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(following)
        last = following
    graph.configure()
    return graph
