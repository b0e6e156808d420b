"""How hostile files are made: little sound videos, and what is done to them."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np

from tests.data_prep.little import shot, write

BASES = {
    "h264.mp4": {"g": 8, "preset": "ultrafast"},
    "front.mp4": {"g": 8, "preset": "ultrafast"},
    "h264.mkv": {"g": 8, "preset": "ultrafast"},
    "h264.ts": {"g": 8, "preset": "ultrafast"},
    "vp8.webm": {"codec": "libvpx", "deadline": "realtime"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "flv1.flv": {"codec": "flv"},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


FRAMES = 24


@cache
def base(name: str) -> bytes:
    """The bytes of a sound little video; the name's suffix is its container."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"x{Path(name).suffix}"
        write(path, shot(zlib.crc32(name.encode()), FRAMES, width=96, height=64), **BASES[name])
        if name == "front.mp4":
            ffmpeg(path, Path(folder) / "y.mp4", "-movflags", "+faststart")
            path = Path(folder) / "y.mp4"
        return path.read_bytes()


def ffmpeg(source: Path, target: Path, *words: str, before: tuple[str, ...] = ()) -> None:
    import imageio_ffmpeg

    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        *before,
        "-i",
        source,
        "-c",
        "copy",
        *words,
        target,
    ]
    subprocess.run(command, check=True)


def flipped(data: bytes, share: float, seed: int) -> bytes:
    out, choose = bytearray(data), random.Random(seed)
    for _ in range(max(1, int(len(out) * share))):
        out[choose.randrange(len(out))] ^= choose.randrange(1, 256)
    return bytes(out)


def holed(data: bytes) -> bytes:
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def patched(name: str, mark: bytes, offset: int, value: bytes) -> bytes:
    """A base with other bytes at an offset behind the end of the first `mark`."""
    data = bytearray(base(name))
    at = data.index(mark) + len(mark) + (offset if offset >= 0 else offset - len(mark))
    data[at : at + len(value)] = value
    return bytes(data)


def after(name: str, mark: bytes, value: bytes) -> bytes:
    return patched(name, mark, 0, value)


def start_of_frame(width: int, height: int) -> bytes:
    """Motion JPEG whose every picture claims another size."""
    data, at = bytearray(base("mjpeg.mov")), 0
    while (at := data.find(b"\xff\xc0\x00\x11\x08", at)) >= 0:
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
        at += 9
    return bytes(data)


def nested() -> bytes:
    box = b""
    for _ in range(2000):
        box = struct.pack(">I", len(box) + 8) + b"moov" + box
    return struct.pack(">I", 16) + b"ftypisom" + bytes(4) + box


def with_times(path: Path, times: list[int]) -> None:
    frames = shot(5, len(times), width=96, height=64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for picture, when in zip(frames, times, strict=True):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                packet.pts = packet.dts = when
                packet.time_base = Fraction(1, 25)
                container.mux(packet)


def far_gap(path: Path, outside: Path) -> None:
    """Two years pass between two frames."""
    with_times(path, [*range(12), *range(2**31, 2**31 + 12)])


def backwards(path: Path, outside: Path) -> None:
    """Times that go back, written by hand because a muxer refuses them: two clusters in the wrong order."""
    with_times(path, list(range(0, 24 * 200, 200)))
    data = path.read_bytes()
    first = data.index(b"\x1f\x43\xb6\x75")
    second = data.index(b"\x1f\x43\xb6\x75", first + 4)
    path.write_bytes(data[:first] + data[second:] + data[first:second])


def many_streams(path: Path, outside: Path) -> None:
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=15) for _ in range(40)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in shot(6, 4, width=64, height=48):
            for stream in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))


def sound(path: Path, codec: str, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, rate), np.int16), format="s16", layout="mono")
        frame.rate = rate
        for part in av.AudioResampler(stream.format, "mono", rate, stream.frame_size or 1024).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def picture(path: Path) -> None:
    assert cv2.imwrite(str(path), shot(2, 1)[0])


def picture_as(path: Path, suffix: str) -> None:
    path.write_bytes(cv2.imencode(suffix, shot(2, 1)[0])[1].tobytes())


def sized(path: Path, width: int, height: int) -> None:
    wide = shot(width, 8, width=max(32, width), height=max(32, height))
    write(path, [np.ascontiguousarray(f[:height, :width]) for f in wide], codec="ffv1", pix_fmt="yuv444p")


def turned(path: Path, degrees: int) -> None:
    with TemporaryDirectory() as folder:
        plain = write(Path(folder) / "x.mp4", shot(degrees, 12, width=96, height=64))
        ffmpeg(plain, path, before=("-display_rotation", str(degrees)))


def deep(path: Path, codec: str, pix_fmt: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=15)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for picture in shot(zlib.crc32(pix_fmt.encode()), 12, width=96, height=64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))


def changing_size(path: Path, outside: Path) -> None:
    """Two streams one behind the other: the picture changes its size half way."""
    with TemporaryDirectory() as folder:
        parts = [
            write(Path(folder) / f"{w}.ts", shot(w, 15, width=w, height=h), preset="ultrafast")
            for w, h in ((96, 64), (160, 120))
        ]
        path.write_bytes(b"".join(p.read_bytes() for p in parts))


def secret(outside: Path) -> Path:
    path = outside / "secret.ts"
    if not path.exists():
        path.write_bytes(base("h264.ts"))
    return path
