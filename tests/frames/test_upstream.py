"""`frame_selection: stride` gives upstream's pixels, to the bit, wherever upstream's reader shows the right frames."""

import pytest
import torch

from cogtune.data.clips import ClipSettings, describe_clip
from cogtune.data.decoder import Decoder
from tests.frames.corpus import Corpus
from tests.frames.upstream import upstream_clip

CLOSED = ["x264.mp4", "x264-g48.mp4", "x264-bf8.mkv", "x264-60.mp4", "x265.mp4", "ntsc.mp4", "vp9.mp4", "aspect.mp4"]
ASKED = [
    ClipSettings([96, 160], 8.0, 49, 3.0, "stride"),
    ClipSettings([64, 96], 8.0, 49, 3.0, "stride"),
    ClipSettings([128, 192], 16.0, 17, 0.0, "stride"),  # larger than the source
    ClipSettings([144, 80], 8.0, 97, 2.0, "stride"),  # too short for the rate
    ClipSettings([48, 80], 8.0, 453, 1.0, "stride"),  # too short at all: padded
]


@pytest.mark.parametrize("name", CLOSED)
def test_stride_is_upstream_to_the_bit(name: str, corpus: Corpus, patient: Decoder) -> None:
    pytest.importorskip("decord")
    for asked in ASKED:
        row, pixels = describe_clip(corpus.path(name), asked, patient)
        assert torch.equal(pixels, upstream_clip(corpus.path(name), asked)), (name, asked, row.indices)
