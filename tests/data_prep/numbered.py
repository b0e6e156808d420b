"""Footage whose frames carry their number, in the kinds that go wrong, and readers of it that are not the project's.

A frame's number stands on its bottom row as twelve dark and light blocks, the lowest bit on the left. What a file
shows is read by ffmpeg, which turns and mirrors as players do; what it sounds by PyAV.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stages.core.media import ffmpeg_binary
from tests.data_prep.little import shot

WIDTH, HEIGHT, BITS, SHOT = 192, 112, 12, 30
BLOCK = WIDTH // BITS
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "veryfast", "-x264-params")
ONE_KEY = "scenecut=0:keyint=300:min-keyint=300"
KEYS = f"scenecut=0:keyint={SHOT}:min-keyint={SHOT}"


def frames(seeds: Iterable[int], first: int = 0, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """A shot of SHOT frames for each seed, numbered from `first` on."""
    found = [f for seed in seeds for f in shot(seed, SHOT, 1.0, width, height)]
    block = width // BITS
    for number, frame in enumerate(found, first):
        for bit in range(BITS):
            frame[-block:, bit * block : (bit + 1) * block] = 230 if number >> bit & 1 else 25
    return found


def number_of(grey: np.ndarray) -> int:
    """The number on a frame [h, w] that is shown upright."""
    block = grey.shape[1] // BITS
    cells = [grey[-block + 4 : -4, b * block + 4 : (b + 1) * block - 4].mean() for b in range(BITS)]
    return sum(int(cell > 128) << bit for bit, cell in enumerate(cells))


def ffmpeg(*words: object) -> None:
    """Run ffmpeg."""
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *map(str, words)], check=True)


def encoded(path: Path, pictures: Sequence[np.ndarray], *options: str) -> Path:
    """Write RGB frames, 25 a second."""
    height, width = pictures[0].shape[:2]
    raw = [ffmpeg_binary(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command = [*raw, "-r", "25", "-i", "-", *options, str(path)]
    subprocess.run(command, input=b"".join(f.tobytes() for f in pictures), check=True)
    return path


def at_times(path: Path, pictures: Sequence[np.ndarray], times_ms: Sequence[int]) -> Path:
    """The same in Matroska with these times, which may repeat."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": ONE_KEY + ":bframes=0", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        packets = [p for f in pictures for p in stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24"))]
        packets += stream.encode(None)
        for packet, time in zip(packets, times_ms, strict=True):
            packet.pts = packet.dts = time
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            out.mux(packet)
    return path


def tone(path: Path, seconds: float) -> Path:
    """A tone of 500 Hz."""
    ffmpeg("-f", "lavfi", "-i", f"sine=frequency=500:duration={seconds}:sample_rate=44100", path)
    return path


def shown(path: Path) -> np.ndarray:
    """The frames of a file in grey as players show them: uint8 [n, h, w]. All must be of one size."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        size = (
            (first.width, first.height) if round((first.rotation or 0) / 90) % 2 == 0 else (first.height, first.width)
        )
    words = ["-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", f"scale={size[0]}:{size[1]}"]
    command = [ffmpeg_binary(), "-v", "error", *words, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, size[1], size[0])


def heard(path: Path) -> tuple[float, float, float]:
    """(from, to, length) of the sound of a file in seconds: when it sounds, and how long the stream is."""
    times, end = [], 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray()).max(axis=0)
            start = float(frame.pts * frame.time_base)
            end = start + frame.samples / frame.sample_rate
            times += (
                [start + k / frame.sample_rate for k in np.flatnonzero(wave > 0.05)[[0, -1]]]
                if (wave > 0.05).any()
                else []
            )
    return (times[0], times[-1], end) if times else (0.0, 0.0, end)


def make(folder: Path, tmp: Path) -> dict[str, int]:
    """One source of each kind, and how many shots it has."""
    folder.mkdir(parents=True)
    plain = encoded(tmp / "plain.mp4", frames((1, 2)), *H264, ONE_KEY)
    keyed = encoded(tmp / "keyed.mp4", frames((3, 4)), *H264, KEYS)
    for name, source, words in (
        ("rotated_90.mp4", plain, ("-display_rotation", "90")),
        ("rotated_270_keyed.mp4", keyed, ("-display_rotation", "270")),
        ("mirrored.mp4", plain, ("-display_hflip",)),
        ("upside_down.mp4", plain, ("-display_vflip",)),
        ("turned_and_mirrored.mp4", plain, ("-display_rotation", "90", "-display_hflip")),
    ):
        ffmpeg(*words, "-i", source, "-c", "copy", folder / name)
    parts = [encoded(tmp / f"{i}.ts", frames((10 + i,), SHOT * i), *H264, f"{KEYS}:bframes=2") for i in range(3)]
    (folder / "joined.ts").write_bytes(b"".join(p.read_bytes() for p in parts))
    parts = [
        encoded(tmp / f"{i}.mpg", frames(seeds, first), "-c:v", "mpeg2video", "-q:v", "3", "-bf", "2")
        for i, (seeds, first) in enumerate((((13, 14), 0), ((15,), 2 * SHOT)))
    ]
    (folder / "joined.mpg").write_bytes(b"".join(p.read_bytes() for p in parts))
    options = ("-vf", "setfield=tff", "-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", "3")
    encoded(folder / "interlaced.mpg", frames((16, 17)), *options)
    encoded(
        folder / "open_groups.ts", frames((18, 19)), *H264, "open-gop=1:keyint=20:min-keyint=20:bframes=3:scenecut=0"
    )
    encoded(folder / "anamorphic.mp4", frames((20,)), "-vf", "setsar=4/3", *H264, KEYS)
    encoded(folder / "full_range.mov", frames((21, 22)), "-c:v", "mjpeg", "-q:v", "3")
    at_times(folder / "pairs.mkv", frames((23, 24)), [80 * (i // 2) for i in range(2 * SHOT)])
    at_times(folder / "late.mkv", frames((25,)), [4000 + 40 * i for i in range(SHOT)])
    small, large = frames((26,)), frames((27,), SHOT, WIDTH + 96, HEIGHT + 56)
    parts = [encoded(tmp / f"s{i}.ts", f, *H264, KEYS) for i, f in enumerate((small, large))]
    (folder / "size_changes.ts").write_bytes(b"".join(p.read_bytes() for p in parts))
    picture = encoded(tmp / "picture.mp4", frames((28, 29)), *H264, KEYS)
    sound, other = tone(tmp / "tone.wav", 2.4), encoded(tmp / "other.mp4", frames((30, 31)), *H264, KEYS)
    third = encoded(tmp / "third.mp4", frames((32, 33)), *H264, KEYS)
    ffmpeg(
        "-i", picture, "-i", sound, "-c:v", "copy", "-c:a", "aac", "-chunk_duration", "900000", folder / "chunks.mp4"
    )
    ffmpeg(
        "-i",
        other,
        "-itsoffset",
        "0.6",
        "-i",
        sound,
        "-c:v",
        "copy",
        "-c:a",
        "libopus",
        "-t",
        "2.4",
        folder / "sound_late.mkv",
    )
    ffmpeg(
        "-itsoffset",
        "0.5",
        "-i",
        third,
        "-i",
        sound,
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        folder / "pictures_late.mkv",
    )
    ones = {"anamorphic.mp4", "late.mkv"}
    threes = {"joined.ts", "joined.mpg"}
    return {p.name: 1 if p.name in ones else 3 if p.name in threes else 2 for p in folder.iterdir()}


SOUND = {"chunks.mp4": (0.0, 2.4), "sound_late.mkv": (0.6, 2.4), "pictures_late.mkv": (0.0, 1.9)}
"""From when to when a source sounds, in seconds from its first picture."""
