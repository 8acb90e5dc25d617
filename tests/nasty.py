"""Nasty inputs, made anew by every test run: what crawls hold and what attackers write, each with its expected record.

A case is a file below the crawl's folder `red`; `CASES` are numbered as in the README's table, which `table` prints.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from material import ImageArray, pictures, truncated, write_audio, write_video

FRAMES = 24
"""of a case at 12 frames/s: 12 are sampled, which make 4 windows of 3"""
LOSSLESS = {"preset": "ultrafast", "qp": "0"}
BT2020_NCL, PQ = 9, 16


@dataclass(frozen=True)
class Case:
    """A nasty file and what becomes of it."""

    number: int
    """row of the README's table"""
    name: str
    """path below `red`"""
    make: Callable[[Path], object]
    status: Literal["ok", "partial", "skipped", "failed"] = "ok"
    reason: str = ""
    failure: str = ""
    masks: int | None = None
    """None: one at least where it is ok or partial, else none"""
    record: Mapping[str, Any] = field(default_factory=dict)
    """other fields of its record"""

    @property
    def id(self) -> str:
        """Of the input."""
        return f"red/{self.name}"

    @property
    def verdict(self) -> str:
        """The record in words."""
        words = f"{self.status}: `{self.reason}`" if self.reason else self.status
        return words + (f", {self.failure}" if self.failure else "")


# ---- time


def vfr(path: Path) -> None:
    """Frames 40 to 180 ms apart, and a pause that no window may cross."""
    gaps = [40, 90, 180, 50, 120, 40, 160, 80] * 3
    times = np.cumsum([0, *gaps[:11], 2000, *gaps[12:-1]])
    write_video(path, pictures("red", FRAMES), pts_ms=[int(time) for time in times])


def start_at(milliseconds: int) -> Callable[[Path], None]:
    """The first time stamp is not 0."""

    def make(path: Path) -> None:
        write_video(path, pictures("red", FRAMES), pts_ms=[milliseconds + 83 * n for n in range(FRAMES)])

    return make


def no_time_stamps(path: Path) -> None:
    """A bare stream of H.264: no container, no time stamps, no length."""
    bare = write_video(path.with_suffix(".h264"), pictures("red", FRAMES))
    bare.rename(path)


def unordered_time_stamps(path: Path) -> None:
    """Time stamps that repeat and fall: of 24 frames 4 do not move on."""
    pts = [*range(8), 7, 9, 8, 10, 11, 11, *range(12, 20), 5, 20]
    rewrite(path, write_video(path.with_suffix(".avi"), pictures("red", FRAMES), codec="mjpeg", pix_fmt="yuvj420p"),
            lambda packets: restamped(packets, pts))  # fmt: skip


def restamped(packets: Iterable[Packet[VideoStream]], pts: Sequence[int]) -> Iterable[Packet[VideoStream]]:
    """Time stamps as given, far enough above the decoding order's that a muxer takes them."""
    for number, (packet, stamp) in enumerate(zip(packets, pts, strict=True)):
        packet.dts, packet.pts = number, 100 + stamp
        yield packet


def edit_list(path: Path) -> None:
    """B frames in mp4: an edit list moves the negative start of the decoding order to 0."""
    write_video(path, pictures("red", FRAMES), options={"preset": "medium", "bf": "3"})


def promised_frames(path: Path) -> None:
    """An AVI of 24 frames whose header says 100 000."""
    write_video(path, pictures("red", FRAMES), codec="mpeg4")
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 16), (b"strh", 32)):
        start = data.index(tag) + 8 + offset
        data[start : start + 4] = struct.pack("<I", 100_000)
    path.write_bytes(data)


def half_a_day(path: Path) -> None:
    """Two seconds of video, then frames of the next day."""
    times = [83 * n for n in range(18)] + [50_000_000 + 83 * n for n in range(6)]
    write_video(path, pictures("red", FRAMES), pts_ms=times)


def of_frames(count: int) -> Callable[[Path], None]:
    """A video of so many frames."""
    return lambda path: void(write_video(path, pictures("red", count)))


# ---- how frames are to be seen


def turned(degrees: int, mirrored: bool = False) -> Callable[[Path], None]:
    """The display matrix of a phone held sideways, or of its front camera."""
    return lambda path: display_matrix(write_video(path, pictures("red", FRAMES)), degrees, mirrored)


def display_matrix(path: Path, clockwise_degrees: int, mirrored: bool = False) -> None:
    """Have players turn the picture clockwise, after they mirrored it left to right."""
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[clockwise_degrees]
    sign = -1 if mirrored else 1
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version 0: times, ids, layer
    entries = [sign * a, sign * b, 0, c, d, 0, 0, 0]
    data[start : start + 36] = struct.pack(">9i", *(entry << 16 for entry in entries), 0x40000000)
    path.write_bytes(data)


def pixels(pix_fmt: str, codec: str = "libx264", **look: int) -> Callable[[Path], None]:
    """A pixel format or frame size of its own."""
    return lambda path: void(write_video(path, pictures("red", FRAMES, **look), pix_fmt=pix_fmt, codec=codec))


def hdr(path: Path) -> None:
    """HDR10: BT.2020 and PQ in 10 bit."""
    write_hdr(path, pictures("red", FRAMES))


def write_hdr(path: Path, images: Sequence[ImageArray]) -> None:
    """Encode sRGB pictures as HDR10, paper white at 203 nits (BT.2408); primaries as they are."""
    params = "log-level=none:qp=4:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv444p10le", {"preset": "ultrafast", "x265-params": params}
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(pq_signal(image), format="rgb48le")
            coded = frame.reformat(format="yuv444p10le", dst_colorspace=BT2020_NCL)
            coded.pts, coded.time_base = number, Fraction(1, 12)
            container.mux(stream.encode(coded))
        container.mux(stream.encode(None))


def pq_signal(image: ImageArray) -> Any:
    """sRGB, uint8 [H, W, 3] -> SMPTE ST 2084, uint16."""
    shown = image / 255
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4) * 203 / 10_000
    power = light**0.1593017578125
    return np.round(65535 * ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375).astype(np.uint16)


def interlaced(path: Path) -> None:
    """Every frame holds two moments, in every other line."""
    write_interlaced(path, pictures("red", 2 * FRAMES, speed_px=2))


def write_interlaced(path: Path, moments: Sequence[ImageArray]) -> None:
    """Two moments a frame, the earlier one in lines 1, 3, 5, …, as the encoder takes it."""
    woven = [early.copy() for early in moments[::2]]
    for frame, late in zip(woven, moments[1::2], strict=True):
        frame[::2] = late[::2]
    options = {"preset": "ultrafast", "crf": "5", "x264-params": "interlaced=1"}
    write_video(path, woven, options=options, pix_fmt="yuv444p")


def wide_pixels(path: Path) -> None:
    """Frames of 96x64 px that are to be seen as 192x64."""
    write_video(path, pictures("red", FRAMES), options={"preset": "ultrafast", "x264-params": "sar=2/1"})


def transparent(codec: str, pix_fmt: str) -> Callable[[Path], None]:
    """The left half is transparent."""

    def make(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=12)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
            for number, image in enumerate(pictures("red", FRAMES)):
                alpha = np.full((64, 96, 1), 255, np.uint8)
                alpha[:, :48] = 0
                frame = av.VideoFrame.from_ndarray(np.concatenate([image, alpha], 2), format="rgba")
                frame.pts, frame.time_base = number, Fraction(1, 12)
                container.mux(stream.encode(frame.reformat(format=pix_fmt)))
            container.mux(stream.encode(None))

    return make


def changed_format(path: Path) -> None:
    """After a second the size changes, after another one the pixel format."""
    options = {"preset": "ultrafast", "crf": "10", "x264-params": "annexb=1:repeat-headers=1"}
    looks: list[tuple[str, dict[str, int]]] = [
        ("yuv420p", {}), ("yuv420p", {"width": 128, "height": 96}), ("yuv444p", {"width": 128, "height": 96}),
    ]  # fmt: skip
    parts = [
        write_video(path.with_name(f"part{n}.h264"), pictures("red", 12, **look), options=options, pix_fmt=pix_fmt)
        for n, (pix_fmt, look) in enumerate(looks)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()


# ---- content


def cuts(path: Path) -> None:
    """Three scenes, inverted against each other."""
    images = pictures("red", 36, seed=3)
    images[12:24] = [255 - image for image in pictures("blue", 12, seed=8)]
    write_video(path, images)


def static(path: Path) -> None:
    """A slide."""
    write_video(path, pictures("red", 1) * FRAMES)


def black(path: Path) -> None:
    """Nothing, with a little noise."""
    rng = np.random.default_rng(1)
    write_video(path, [rng.integers(14, 19, (64, 96, 3), dtype=np.uint8) for _ in range(FRAMES)])


def letterbox(path: Path) -> None:
    """Black bars above and below."""
    images = pictures("red", FRAMES)
    for image in images:
        image[:10], image[-10:] = 0, 0
    write_video(path, images)


# ---- damage


def cut_short(path: Path) -> None:
    """The index stands in front, the last two fifths are missing."""
    truncated(write_video(path, pictures("red", 60), container_options={"movflags": "faststart"}), 0.6)


def corrupt_middle(path: Path) -> None:
    """Four kilobytes in the middle of the frames are overwritten."""
    write_video(path, pictures("red", 96), options={"preset": "ultrafast", "g": "24", "crf": "5"})
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + len(data) // 3
    data[begin : begin + 4000] = b"\xff" * 4000
    path.write_bytes(data)


def no_moov(path: Path) -> None:
    """The index, which stands at the end, is missing."""
    truncated(write_video(path, pictures("red", FRAMES)), 0.6)


def open_gop(path: Path) -> None:
    """A recording that starts at the open group of pictures: B frames refer to what is missing."""
    params = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0:repeat-headers=1"
    whole = write_video(path.with_suffix(".mkv"), pictures("red", 36), options={"x264-params": params})
    rewrite(path, whole, lambda packets: from_the_second_key(list(packets)))


def from_the_second_key(packets: list[Packet[VideoStream]]) -> list[Packet[VideoStream]]:
    """Start at a later entry point."""
    first, second, *_ = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert first == 0
    return packets[second:]


def late_key(path: Path) -> None:
    """A broadcast switched on in the middle: the first second has no key frame."""
    options = {"preset": "ultrafast", "g": "12", "x264-params": "scenecut=0"}
    rewrite(path, write_video(path.with_suffix(".mkv"), pictures("red", 36), options=options),
            lambda packets: list(packets)[1:])  # fmt: skip


def packed_b_frames(path: Path) -> None:
    """DivX' way to have B frames in AVI: two frames in a packet, then an empty one."""
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.options = 96, 64, {"bf": "1", "b": "2000000"}
        frames = [av.VideoFrame.from_ndarray(image, format="rgb24") for image in pictures("red", FRAMES + 1)]
        coded = [bytes(packet) for frame in [*frames, None] for packet in stream.encode(frame)]
        for number, chunk in enumerate(packed(coded)):
            packet: Packet[Any] = Packet(chunk)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 12)
            packet.is_keyframe = number == 0
            container.mux(packet)


def packed(coded: Sequence[bytes]) -> Iterator[bytes]:
    """I P B P B … -> I, P with its B, nothing, P with its B, nothing, …"""
    header = coded[0].index(b"\0\0\1\xb6")  # what stands before the first frame
    yield coded[0][:header] + b"\0\0\1\xb2DivX503b1393p" + coded[0][header:]
    for forward, between in zip(coded[1::2], coded[2::2], strict=True):
        yield forward + between
        yield b"\0\0\1\xb6\x56\x20\x80"  # a frame that is not coded


# ---- what is no video


def text(content: str | bytes) -> Callable[[Path], None]:
    """A file of this content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path: void(path.write_bytes(data))


def playlist(location: str) -> str:
    """An HLS playlist of one file."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{location}\n#EXT-X-ENDLIST\n"


def concatenation(location: str) -> str:
    """A script of FFmpeg's concat demuxer."""
    return f"ffconcat version 1.0\nfile '{location}'\n"


def cover_art(with_video: bool) -> Callable[[Path], None]:
    """A song with a picture of its record, which stands before the video where there is one."""

    def make(path: Path) -> None:
        with av.open(str(path), "w", format="mp4") as container:
            art = container.add_stream("mjpeg", rate=1)
            assert isinstance(art, av.VideoStream)
            art.width, art.height, art.pix_fmt = 96, 64, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            sound = container.add_stream("aac", rate=16000, layout="mono")
            video = container.add_stream("libx264", rate=12) if with_video else None
            if isinstance(video, av.VideoStream):
                video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
            container.mux(art.encode(av.VideoFrame.from_ndarray(pictures("blue")[0], format="rgb24")))
            container.mux(art.encode(None))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16000
            container.mux([*sound.encode(silence), *sound.encode(None)])
            if isinstance(video, av.VideoStream):
                for number, image in enumerate(pictures("red", FRAMES)):
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, 12)
                    container.mux(video.encode(frame))
                container.mux(video.encode(None))

    return make


def huge(path: Path) -> None:
    """A GIF of some kilobytes that claims 60 000 x 60 000 px."""
    write_video(path, pictures("red", 3), codec="gif", pix_fmt="rgb8")
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    """Common encryption, without the key."""
    key = {"encryption_key": "00112233445566778899aabbccddeeff", "encryption_kid": "0" * 32}
    scheme = {"encryption_scheme": "cenc-aes-ctr"}
    write_video(path, pictures("red", FRAMES), container_options=scheme | key)


# ---- names and places


def same_as(name: str) -> Callable[[Path], None]:
    """A good video, of other content than its namesakes."""
    return lambda path: void(write_video(path, pictures("red", FRAMES, seed=len(name))))


def link_to(target: str) -> Callable[[Path], None]:
    """A symbolic link."""
    return lambda path: path.symlink_to(target)


def void(_: object) -> None:
    """Nothing: makers return nothing."""


def rewrite(
    path: Path,
    whole: Path,
    change: Callable[[Iterable[Packet[VideoStream]]], Iterable[Packet[VideoStream]]],
) -> None:
    """Copy the packets of `whole`, which goes, to `path`, changed on the way."""
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        (stream,) = source.streams.video
        copy = target.add_stream_from_template(stream)
        for packet in change(packet for packet in source.demux(stream) if packet.size):
            packet.stream = copy
            target.mux(packet)
    whole.unlink()


# ---- the table

OUTSIDE = "outside.mp4"
"""a good video beside the crawl's folder"""

WHAT = {
    1: ("variable frame rate, pauses", "windows by time stamps; a pause ends a shot"),
    2: ("rotated or mirrored by metadata, pixels that are not square", "made upright and square; recorded"),
    3: ("10 bit, HDR, 4:4:4", "8-bit RGB by the video's own matrix, PQ toned down to SDR"),
    4: ("odd sizes", "masks of the exact size"),
    5: ("truncated", "the good beginning is labelled"),
    6: ("corrupt in the middle", "damaged frames are left out and end a shot"),
    7: ("empty, no video, no file", "not tried again"),
    8: ("sound only, cover art", "cover art is no video"),
    9: ("the index (moov) is missing", "not tried again"),
    10: ("interlaced", "recorded; `--deinterlace` mends it"),
    11: ("bombs: huge frames, endless time", "`--max-pixels` before anything is allocated, `--max-seconds`"),
    12: (
        "time stamps that are negative, late, missing, repeated, falling; an edit list; a header that promises more",
        "only frames that come out count; what does not move on in time is left out and counted",
    ),
    13: ("alpha", "dropped"),
    14: ("size or pixel format changes in the middle", "ends a shot"),
    15: ("encrypted; a playlist or concatenation named .mp4", "nothing else is opened, no file and no URL"),
    16: (
        "names: spaces, dots, new lines, not UTF-8, terminal codes, twins, links out of the folder",
        "names are data only; files are named by hashes, and what is printed is spelled out",
    ),
    17: ("starts between key frames, open groups of pictures", "begins with the first clean frame"),
    18: ("B frames packed as DivX did", "time stamps are repaired"),
    19: ("one frame, no frame rate, fewer frames than a window", "recorded with the count"),
    20: ("very short files", "as any other"),
    21: ("slides, black frames, letterbox, cuts", "blank frames are in no window, and none spans a cut"),
    22: ("gone when it is opened", "worth another try"),
}  # fmt: skip


def refused(name: str, make: Callable[[Path], object], number: int, reason: str, failure: str = "permanent") -> Case:
    """A file that fails."""
    return Case(number, name, make, "failed", reason, failure)


CASES = [
    Case(1, "vfr.mp4", vfr, record={"shots": 2}),
    Case(2, "turned.mp4", turned(90), masks=4, record={"rotation_degrees": -90, "mirrored": False}),
    Case(2, "mirrored.mp4", turned(0, mirrored=True), masks=4, record={"rotation_degrees": 0, "mirrored": True}),
    Case(2, "selfie.mp4", turned(270, mirrored=True), masks=4, record={"rotation_degrees": 90, "mirrored": True}),
    Case(2, "wide.mp4", wide_pixels, masks=4, record={"pixel_aspect": 2.0, "width_px": 96}),
    Case(3, "ten_bit.mp4", pixels("yuv420p10le"), masks=4),
    Case(3, "hdr.mp4", hdr, masks=4),
    Case(3, "444.mp4", pixels("yuv444p"), masks=4),
    Case(4, "odd.mp4", pixels("yuv444p", width=95, height=65), masks=4, record={"width_px": 95, "height_px": 65}),
    Case(5, "cut_short.mp4", cut_short, "partial", "broken"),
    Case(6, "corrupt.mp4", corrupt_middle, "partial", "corrupt_packets"),
    refused("zero.mp4", text(""), 7, "empty"),
    refused("text.mp4", text("this is no video\n" * 100), 7, "not_media"),
    refused("zeros.mp4", text(b"\0" * 5000), 7, "not_media"),
    refused("404.mp4", text("<!DOCTYPE html><html><body>404 Not Found</body></html>"), 7, "not_media"),
    refused("pipe.mp4", os.mkfifo, 7, "not_media"),
    refused("sound.mp4", write_audio, 8, "no_video_stream"),
    refused("record.m4v", cover_art(with_video=False), 8, "no_video_stream"),
    Case(8, "art_first.mp4", cover_art(with_video=True), masks=4, record={"codec": "h264"}),
    refused("no_moov.mp4", no_moov, 9, "no_moov"),
    Case(10, "interlaced.mp4", interlaced, masks=4, record={"interlaced": True}),
    refused("huge.gif", huge, 11, "too_large"),
    Case(11, "half_a_day.mkv", half_a_day, "partial", "too_long", masks=3),
    Case(12, "negative.mkv", start_at(-400), masks=4),
    Case(12, "late.mkv", start_at(5000), masks=4, record={"start_seconds": 5.0}),
    Case(12, "bare.mp4", no_time_stamps, masks=2, record={"frames_decoded": FRAMES}),
    Case(12, "unordered.mkv", unordered_time_stamps, record={"dropped_frames": 4}),
    Case(12, "edit_list.mp4", edit_list, masks=4, record={"dropped_frames": 0}),
    Case(12, "promised.avi", promised_frames, "partial", "broken", masks=4, record={"frames_decoded": FRAMES}),
    Case(13, "argb.mov", transparent("qtrle", "argb"), masks=4),
    Case(13, "prores.mov", transparent("prores_ks", "yuva444p10le"), masks=4),
    Case(13, "alpha.webm", transparent("libvpx-vp9", "yuva420p"), masks=4),
    Case(14, "changed.mp4", changed_format, record={"shots": 2, "frames_decoded": 36}),
    refused("drm.mp4", encrypted, 15, "encrypted"),
    refused("hls.mp4", text(playlist("good.mp4")), 15, "format_refused"),
    refused("concat.mp4", text(concatenation("good.mp4")), 15, "format_refused"),
    Case(16, "good.mp4", same_as("good"), masks=4),
    Case(16, "deep/er/good.mp4", same_as("namesake"), masks=4),
    Case(16, "two  spaces .mp4", link_to("good.mp4"), masks=4),
    Case(16, "a.b.c..mp4", link_to("good.mp4"), masks=4),
    Case(16, ".mp4.mp4", link_to("good.mp4"), masks=4),
    Case(16, "concat:x.mp4", link_to("good.mp4"), masks=4),
    Case(16, "-dash.mp4", link_to("good.mp4"), masks=4),
    Case(16, "new\nline.mp4", link_to("good.mp4"), masks=4),
    Case(16, os.fsdecode(b"\xff\xfe.mp4"), link_to("good.mp4"), masks=4),
    Case(16, "[bold]%s%n.mp4", link_to("good.mp4"), masks=4),
    Case(16, "\x1b[31m\x9b2J\x07.mp4", link_to("good.mp4"), masks=4),
    Case(16, "\u202e4pm.mp4", link_to("good.mp4"), masks=4),
    Case(16, "ünïcödé 犬.mp4", link_to("good.mp4"), masks=4),
    refused("far.mp4", link_to(f"../../{OUTSIDE}"), 16, "outside"),
    Case(17, "open_gop.ts", open_gop, masks=4, record={"packet_errors": 0}),
    Case(17, "late_key.ts", late_key, masks=4, record={"frames_decoded": FRAMES}),
    Case(18, "packed.avi", packed_b_frames, masks=4, record={"frames_decoded": FRAMES + 1, "dropped_frames": 2}),
    Case(19, "one.mp4", of_frames(1), "skipped", "too_short"),
    Case(19, "three.mp4", of_frames(3), "skipped", "too_short"),
    Case(20, "second.mp4", of_frames(12), masks=2),
    Case(21, "static.mp4", static, masks=4, record={"shots": 1}),
    Case(21, "black.mp4", black, "skipped", "blank"),
    Case(21, "letterbox.mp4", letterbox, masks=4),
    Case(21, "cuts.mp4", cuts, record={"shots": 3}),
    refused("gone.mp4", link_to("nowhere.mp4"), 22, "missing", "transient"),
]  # fmt: skip


def nasty_crawl(folder: Path) -> Path:
    """All cases in a folder of videos."""
    (folder / "red" / "deep" / "er").mkdir(parents=True)
    same_as("outside")(folder.parent / OUTSIDE)
    for case in CASES:
        case.make(folder / case.id)
    return folder


def table() -> str:
    """The README's table of hostile input."""
    lines = ["| | input | what f2f does | record |", "|---|---|---|---|"]
    for number, (what, does) in WHAT.items():
        verdicts = dict.fromkeys(case.verdict for case in CASES if case.number == number)
        lines.append(f"| {number} | {what} | {does} | {'; '.join(verdicts)} |")
    return "\n".join(lines)
