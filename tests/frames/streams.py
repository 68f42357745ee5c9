"""The streams: one line each, by what is unusual about it. Short and small; no two frames are alike."""

from dataclasses import replace
from typing import Any

from tests.frames.corpus import SIZE, Stream, cut, edits

_PICTURE = f"-f lavfi -i testsrc2=size={SIZE[1]}x{SIZE[0]}"
_X264, _X265 = "-c:v libx264 -preset veryfast", "-c:v libx265 -preset veryfast -x265-params log-level=none"
_TONE = "-f lavfi -i sine=frequency=440:duration"


def _stream(name: str, options: str, source: str = "30.y4m", **more: Any) -> Stream:
    return Stream(name, (f"-i {{{source}}} {options}",), **more)


def _copy(name: str, source: str, before: str = "", options: str = "", **more: Any) -> Stream:
    return Stream(name, (f"{before} -i {{{source}}} -map 0 -c copy {options}",), **more)


def _list(name: str, *members: str) -> Stream:
    """A list for ffmpeg's concat, and its members."""
    lines = "".join(f"file {member}\n" for member in members)
    inputs = " ".join(f"-i {{{member}}}" for member in members)
    return Stream(name, (f"{inputs} -frames:v 1 -f rawvideo",), edit=lambda _: lines.encode())


def _joined(name: str, *parts: str, **more: Any) -> Stream:
    """Files one behind the other, as `cat` joins them."""
    inputs = "|".join(f"{{{part}}}" for part in parts)
    return Stream(name, (f"-f data -i concat:{inputs} -map 0 -c copy -f data",), **more)


SOURCES = [
    Stream("30.y4m", (f"{_PICTURE}:rate=30:duration=9 -pix_fmt yuv420p",)),
    Stream("60.y4m", (f"{_PICTURE}:rate=60:duration=7 -pix_fmt yuv420p",)),
    _stream("small.ts", f"-vf crop=96:64 {_X264} -t 5"),
    _list("closed-open.txt", "x264-g48.mp4", "x264-open.mp4"),
    _list("cuts.txt", "cut-closed.mp4", "cut-open.mp4"),
    _list("sizes.txt", "x264-open.ts", "small.ts"),
    _copy("part.ts", "x264-g48.mp4", options="-t 4"),
    _copy("part-8.ts", "x264-g48.mp4", options="-t 4 -output_ts_offset 8"),
    _copy("part-hour.ts", "x264-g48.mp4", options="-t 4 -output_ts_offset 3600"),
    *[_copy(f"part-{number}.ts", "x264-g48.mp4", f"-ss {1.6 * number}", "-t 1.5") for number in range(5)],
    _copy("segment-a.ts", "x264-g48.mp4", "-copyts", "-to 3.2"),
    _copy("segment-b.ts", "x264-g48.mp4", "-copyts -ss 3.2"),
    Stream("picture.png", ("-f lavfi -i color=red:size=64x48:duration=1 -frames:v 1",)),
]


PLAIN = [
    _stream("x264.mp4", _X264, exact=True),
    _stream("x264-medium.mov", "-c:v libx264", exact=True),
    _stream("x264-g30.mp4", f"{_X264} -g 30", exact=True),
    _stream("x264-g48.mp4", f"{_X264} -g 48 -keyint_min 48 -sc_threshold 0", exact=True),
    _stream("x264-bf8.mkv", f"{_X264} -x264-params bframes=8:b-adapt=0:b-pyramid=normal:keyint=40", exact=True),
    _stream("x264-keyint8.mp4", f"{_X264} -x264-params keyint=8:min-keyint=1", exact=True),
    _stream("x264-bf0.avi", f"{_X264} -bf 0 -g 30", exact=True),
    _stream("x264-60.mp4", f"{_X264} -g 100", source="60.y4m", exact=True),
    _stream("x265.mp4", f"{_X265}", exact=True),
    _stream("x265-closed.mkv", f"{_X265}:keyint=30:open-gop=0", exact=True),
    _stream("mpeg4.avi", "-c:v mpeg4 -q:v 3", exact=True),
    _stream("mpeg4-bf2.mp4", "-c:v mpeg4 -q:v 3 -bf 2 -g 20"),
    _stream("vp8.webm", "-c:v libvpx -deadline realtime -auto-alt-ref 1 -b:v 400k", exact=True),
    _stream("vp9.webm", "-c:v libvpx-vp9 -deadline good -cpu-used 5 -auto-alt-ref 1 -lag-in-frames 25 -b:v 300k", exact=True),
    _stream("vp9.mp4", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 40", exact=True),
    _stream("av1.mp4", "-c:v libsvtav1 -preset 12 -g 60"),
    _stream("av1.mkv", "-c:v libsvtav1 -preset 12 -g 300"),
    _stream("av1.webm", "-c:v libaom-av1 -cpu-used 8 -usage realtime"),
    _stream("av1-good.mkv", "-c:v libaom-av1 -cpu-used 8", slow=True),
    _stream("prores.mov", "-c:v prores_ks"),
    _stream("mjpeg.avi", "-c:v mjpeg -q:v 3"),
    _stream("ffv1.mkv", "-c:v ffv1", exact=True),
    _stream("x264.flv", f"{_X264} -g 48", exact=True),
]  # fmt: skip

REORDERED = [
    _stream("x264-open.mp4", f"{_X264} -x264-params open-gop=1:keyint=48:bframes=3"),
    _stream("x264-open.mkv", "-c:v libx264 -x264-params open-gop=1:keyint=30:bframes=5:b-adapt=0"),
    _stream("x264-open.ts", f"{_X264} -x264-params open-gop=1:keyint=48:bframes=3"),
    _stream("x264-refresh.mp4", f"{_X264} -x264-params intra-refresh=1:keyint=60"),
    _stream("x264-refresh.mkv", f"{_X264} -x264-params intra-refresh=1:keyint=30:bframes=2"),
    _stream("x265-60.mp4", _X265, source="60.y4m"),
    _stream("x265-open.mp4", f"{_X265}:keyint=10:open-gop=1"),
    _stream("x265-open.mkv", f"{_X265}:keyint=48:open-gop=1"),
    _stream("xvid-bf2.avi", "-c:v libxvid -bf 2 -q:v 3"),
    _stream("mpeg4-bf2.avi", "-c:v mpeg4 -vtag XVID -bf 2 -q:v 3"),
    _stream("mpeg4-packed.avi", "-c:v mpeg4 -vtag DIVX -bf 2 -q:v 3 -g 300"),
    _stream("mpeg2-bf2.mkv", "-c:v mpeg2video -bf 2 -q:v 3"),
    _stream("mpeg2-bf2.mpg", "-c:v mpeg2video -bf 2 -q:v 3"),
    _stream("mpeg2-bf2.ts", "-c:v mpeg2video -bf 2 -q:v 3"),
    _stream("mpeg2-bf2.mp4", "-c:v mpeg2video -bf 2 -q:v 3"),
    _stream("mpeg1-bf2.mpg", "-c:v mpeg1video -bf 2 -q:v 3"),
]

VARIABLE = [
    _stream("vfr.mkv", rf"-vf select='mod(n\,7)*mod(n\,11)' -fps_mode vfr {_X264}"),
    _stream("vfr.mp4", rf"-vf select='mod(n\,7)*mod(n\,11)' -fps_mode vfr {_X264}"),
    _stream("vfr-two-rates.mp4", rf"-vf select='lt(t\,3)+not(mod(n\,3))' -fps_mode vfr {_X264} -g 48"),
    _stream("vfr-jitter.mkv", f"-vf setpts='PTS+0.4*sin(N)*(1/30/TB)' -enc_time_base 1/1000 {_X264} -fps_mode passthrough"),
    _stream("vfr-open.mp4", rf"-vf select='mod(n\,5)' -fps_mode vfr {_X264} -x264-params open-gop=1:keyint=40"),
    _stream("ntsc.mp4", f"-vf setpts=PTS*1.001 -r 30000/1001 {_X264}", exact=True),
]  # fmt: skip

CUTS = [
    _copy(f"cut-{kind}{suffix}", source, "-ss 1.3", "-t 7.2")
    for kind, source in {
        "closed": "x264-g48.mp4", "open": "x264-open.mp4", "x265": "x265-open.mkv", "refresh": "x264-refresh.mp4",
    }.items()
    for suffix in (".mp4", ".mov", ".mkv")
] + [
    _copy("cut.ts", "x264-g48.mp4", "-ss 1.3", "-t 7.2"),
    _copy("cut-av1.mp4", "av1.mp4", "-ss 1.3", "-t 7"),
    _copy("cut-vp9.webm", "vp9.webm", "-ss 1.3", "-t 7"),
    _copy("cut-mpeg2.mkv", "mpeg2-bf2.mkv", "-ss 1.3", "-t 7"),
    _copy("cut-zero.mp4", "x264-g48.mp4", "-ss 1.3", "-t 7.2 -avoid_negative_ts make_zero"),
    Stream("cut-sound.mp4", ("-ss 1.3 -i {sound.mp4} -t 7.2 -c copy",)),
    Stream("cut-sound.mkv", ("-ss 1.3 -i {sound.mp4} -t 7.2 -c copy",)),
    Stream("cut-sound.mov", ("-ss 1.3 -i {sound.mp4} -t 7.2 -c copy",)),
    _copy("cut-twice.mp4", "cut-closed.mp4", "-ss 0.5", "-t 6.3"),
]  # fmt: skip

SHOWN = [
    _copy(f"rotated-{angle}{suffix}", "x264.mp4", f"-display_rotation {angle}")
    for angle in (90, 180, 270)
    for suffix in (".mp4", ".mkv")
] + [
    _copy(f"{flip}{suffix}", "x264.mp4", f"-display_{flip}") for flip in ("hflip", "vflip") for suffix in (".mp4", ".mkv")
] + [
    _copy("rotated-hflip.mp4", "x264.mp4", "-display_rotation 90 -display_hflip"),
    _copy("rotated-hflip.mkv", "x264.mp4", "-display_rotation 90 -display_hflip"),
    _copy("rotated-open.mov", "x264-open.mp4", "-display_rotation 270"),
    _stream("aspect.mp4", f"-vf setsar=2 {_X264}", exact=True),
    _stream("aspect.mkv", f"-vf setsar=4/3 {_X264}", exact=True),
]  # fmt: skip

CONTAINERS = [
    _copy("offset.mkv", "x264.mp4", options="-output_ts_offset 3.2"),
    _copy("offset.mp4", "x264.mp4", options="-output_ts_offset 3.2"),
    _copy("offset.ts", "x264.mp4", options="-output_ts_offset 3.2"),
    _copy("offset-open.mkv", "x264-open.mkv", options="-output_ts_offset 100"),
    Stream("sound.mp4", (f"-i {{x264-g48.mp4}} {_TONE}=9 -map 0 -map 1 -c:v copy -c:a aac",)),
    *[
        Stream(f"sound-longer{suffix}", (f"-i {{x264-bf0.avi}} {_TONE}=14 -map 0 -map 1 -c:v copy -c:a {codec}",))
        for suffix, codec in {".mp4": "aac", ".mkv": "aac", ".avi": "mp3"}.items()
    ],
    Stream("sound-first.mp4", (f"{_TONE}=9 -i {{x264-g48.mp4}} -map 0 -map 1 -c:v copy -c:a aac",)),
    Stream("sound-early.mkv", (f"{_TONE}=9 -itsoffset 0.7 -i {{x264.mp4}} -map 0 -map 1 -c:v copy -c:a aac",)),
    Stream("sound-early.mp4", (f"{_TONE}=9 -itsoffset 0.7 -i {{x264.mp4}} -map 0 -map 1 -c:v copy -c:a aac",)),
    *[
        Stream(f"cover-first{suffix}", ("-i {picture.png} -i {x264.mp4} -map 0 -map 1 -c copy -disposition:v:0 attached_pic",))
        for suffix in (".mp4", ".mov")
    ],
    Stream("picture-first.mkv", ("-i {picture.png} -i {x264.mp4} -map 0 -map 1 -c:v:0 mjpeg -c:v:1 copy",)),
    Stream("picture-first.mp4", ("-i {picture.png} -i {x264.mp4} -map 0 -map 1 -c:v:0 mjpeg -c:v:1 copy",)),
    _copy("fragmented.mp4", "x264-g48.mp4", options="-movflags frag_keyframe+empty_moov+default_base_moof", exact=True),
    _copy("fragmented-open.mp4", "x264-open.mp4", options="-movflags frag_keyframe+empty_moov"),
    _copy("faststart.mp4", "x264-g48.mp4", options="-movflags +faststart", exact=True),
    Stream("restarting.ts", ("-i {x264-g48.mp4} -t 4 -c copy",), edit=lambda content: content + content),
    _joined("restarting-often.ts", *(f"part-{number}.ts" for number in range(5))),
    Stream(
        "segments.ts",
        (
            "-i {x264-g48.mp4} -c copy -f segment -segment_time 3.2 -segment_format mpegts {out}.%d.ts",
            "-f data -i concat:{out}.0.ts|{out}.1.ts|{out}.2.ts -map 0 -c copy -f data {out}",
        ),
    ),
    _joined("overlapping.ts", "segment-a.ts", "segment-b.ts", must_use=False, rejects="run backwards"),
    Stream("restarting-behind.ts", ("-i {x264-g48.mp4} -c copy",), edit=lambda content: content + content),
    Stream("restarting-open.ts", ("-i {x264-open.mp4} -t 4 -c copy",), edit=lambda content: content + content),
    Stream("restarting-mpeg2.ts", ("-i {mpeg2-bf2.ts} -t 4 -c copy",), edit=lambda content: content + content),
    Stream("restarting-x265.ts", ("-i {x265-open.mkv} -t 4 -c copy",), edit=lambda content: content + content),
    Stream("restarting-sound.ts", ("-i {sound.mp4} -t 4 -c copy",), edit=lambda content: content + content),
    Stream("restarting.mpg", ("-i {mpeg2-bf2.mpg} -t 4 -c copy",), edit=lambda content: content + content),
    _joined("jumping.ts", "part.ts", "part-hour.ts"),
    _joined("jumping-back.ts", "part-hour.ts", "part.ts"),
    _joined("jumping-a-little.ts", "part.ts", "part-8.ts", must_use=False, rejects="bytes are missing"),
    _joined("jumping-twice.ts", "part.ts", "part-hour.ts", "part-8.ts"),
    Stream("x264-90-percent.avi", ("-i {x264-bf0.avi} -c copy",), edit=cut(0.9), must_use=False, rejects="cut short"),
    Stream("x264-90-percent.mkv", ("-i {x264.mp4} -c copy",), edit=cut(0.9), must_use=False, rejects="cut short"),
]  # fmt: skip

DEPTHS = [
    _stream("x264-10bit.mp4", f"{_X264} -pix_fmt yuv420p10le -g 48"),
    _stream("x265-10bit.mp4", f"{_X265} -pix_fmt yuv420p10le"),
    _stream("x265-10bit-open.mkv", f"{_X265}:keyint=20:open-gop=1 -pix_fmt yuv420p10le"),
    _stream("vp9-10bit.webm", "-c:v libvpx-vp9 -profile:v 2 -pix_fmt yuv420p10le -deadline realtime -cpu-used 8"),
    _stream("av1-10bit.mkv", "-c:v libsvtav1 -preset 12 -pix_fmt yuv420p10le"),
]

ODD = [
    _stream("interlaced.mp4", f"{_X264} -flags +ildct+ilme -x264-params tff=1:keyint=48"),
    _stream("interlaced-mpeg2.ts", "-c:v mpeg2video -flags +ildct+ilme -bf 2 -q:v 3"),
    _stream("telecine.mpg", "-vf telecine -c:v mpeg2video -flags +ildct+ilme -bf 2 -q:v 3"),
    _stream("alpha.webm", "-vf format=yuva420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8"),
    _stream("alpha.mov", "-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le"),
    _stream("444.mp4", f"{_X264} -pix_fmt yuv444p"),
    _stream("422-10bit.mkv", f"{_X264} -pix_fmt yuv422p10le"),
    _stream("gray.mp4", f"{_X264} -pix_fmt gray"),
    _stream("rgb.mkv", "-c:v libx264rgb -preset veryfast"),
    _stream("full-range.mp4", f"-vf scale=out_range=full {_X264} -color_range pc"),
    _stream("full-range-mjpeg.mov", "-c:v mjpeg -pix_fmt yuvj422p -q:v 3"),
    _stream("bt709.mp4", f"{_X264} -colorspace bt709 -color_primaries bt709 -color_trc bt709"),
    _stream("bt2020.mkv", f"{_X265} -pix_fmt yuv420p10le -colorspace bt2020nc -color_primaries bt2020 -color_trc smpte2084"),
    _stream("one-group.mp4", f"{_X264} -g 10000 -sc_threshold 0", source="60.y4m"),
    _stream("one-frame.mp4", f"-frames:v 1 {_X264}"),
    _stream("two-frames.mkv", f"-frames:v 2 {_X264}"),
    _stream("dropped.avi", r"-vf select='mod(n\,9)' -fps_mode cfr -c:v mpeg4 -bf 2 -q:v 3"),
    _stream("odd-size.mp4", f"-vf crop=87:57 {_X264} -pix_fmt yuv444p"),
    _stream("odd-size-420.mkv", "-vf crop=87:57 -c:v mpeg4 -q:v 3"),
    _stream("narrow.mp4", f"-vf crop=34:96 {_X264}"),
    _stream("slow.mp4", f"-r 5 {_X264}"),
    _stream("120.mp4", f"-vf setpts=PTS/2 -r 120 {_X264} -t 4", source="60.y4m"),
    _stream("h263.avi", "-vf scale=176:144 -c:v h263 -q:v 3"),
    _stream("theora.ogv", "-c:v libtheora -q:v 7"),
    _stream("wmv.wmv", "-c:v wmv2 -q:v 3"),
    _stream("hevc-bframes.ts", f"{_X265}:keyint=30:bframes=6:open-gop=1"),
    _stream("gif.gif", "-t 7"),
    _stream("dnxhd.mov", "-vf scale=1280:720 -c:v dnxhd -profile:v dnxhr_lb -pix_fmt yuv422p", slow=True),
    _copy("end-hidden.mp4", "x264-open.mp4", "-ss 0.9", "-t 7.03"),
    _copy("cut-negative.mp4", "x264-bf8.mkv", "-ss 2.05", "-t 6 -avoid_negative_ts disabled"),
    Stream("cut-negative-sound.mp4", ("-ss 1.05 -i {sound.mp4} -t 7 -c copy -avoid_negative_ts disabled",)),
    Stream("concat.mp4", ("-f concat -safe 0 -i {closed-open.txt} -c copy",)),
    Stream("cut-joined.mp4", ("-f concat -safe 0 -i {cuts.txt} -c copy",)),
    Stream("sizes.ts", ("-f concat -safe 0 -i {sizes.txt} -c copy",), must_use=False, rejects="changes size"),
    _copy("edit-ends-early.mp4", "x264-open.mp4", edit=edits((7000, 1024))),
    _copy("edits-two.mp4", "x264-g48.mp4", edit=edits((3000, 1024), (4000, 1024 + 4 * 15360))),
    _copy("edits-twice.mp4", "x264-g48.mp4", edit=edits((5000, 1024), (5000, 1024))),
    _copy("edit-pause.mp4", "x264-open.mp4", edit=edits((1000, -1), (7000, 1024 + 15360))),
    _copy("rotated-45.mp4", "x264.mp4", "-display_rotation 45", must_use=False, rejects="rotated by"),
    _copy("no-b-pyramid.flv", "x264-open.mp4"),
    _copy("annexb.h264", "x264-g48.mp4", must_use=False, rejects="no times"),
    _copy("raw.ivf", "vp9.mp4"),
    _copy("m4v.m4v", "x264-g48.mp4"),
    _copy("wrong-suffix.avi", "x264-open.mp4", options="-f mp4"),
    _copy("video-3gp.3gp", "x264-g48.mp4"),
    _copy("negative-offset.mkv", "x264.mp4", options="-output_ts_offset -1"),
    _copy("timescale.mov", "x264-open.mp4", options="-video_track_timescale 600"),
    _copy("hint-negative.mp4", "x264-open.mp4", options="-movflags negative_cts_offsets"),
    _copy("no-edits.mp4", "x264-open.mp4", options="-use_editlist 0"),
    _copy("frag-cut.mp4", "x264-g48.mp4", "-ss 1.3", "-t 7 -movflags frag_keyframe+empty_moov"),
    _copy("frag-frames.mp4", "x264-open.mp4", options="-movflags frag_every_frame+empty_moov"),
]  # fmt: skip

SELDOM = {stream.name for stream in ODD} | {
    "cut-closed.mov", "cut-open.mov", "cut-x265.mov", "cut-refresh.mov", "cut-refresh.mkv", "x265-10bit-open.mkv",
    "rotated-180.mkv", "rotated-270.mp4", "cover-first.mov", "mpeg2-bf2.mp4", "x264-refresh.mkv", "vfr-jitter.mkv",
}  # fmt: skip
"""Right as well, and of a kind with others; they are run with the slow tests."""

STREAMS = {
    stream.name: replace(stream, slow=stream.slow or stream.name in SELDOM)
    for group in (PLAIN, REORDERED, VARIABLE, CUTS, SHOWN, CONTAINERS, DEPTHS, ODD)
    for stream in group
}
ALL = STREAMS | {stream.name: stream for stream in SOURCES}
