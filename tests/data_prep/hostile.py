"""Hostile footage: broken, odd and misleading files of every kind that a bucket may hold, each with how it must end.

cases = hostile_cases()
make(cases, folder, outside)     writes them below `folder`; links point to `outside`
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.data_prep.hostile_makers import (
    BASES,
    after,
    backwards,
    base,
    changing_size,
    deep,
    far_gap,
    flipped,
    holed,
    many_streams,
    nested,
    patched,
    picture,
    picture_as,
    secret,
    sized,
    sound,
    start_of_frame,
    turned,
)
from tests.data_prep.little import shot, write

OK, ERROR, SKIPPED = "ok", "error", "skipped"
ANY = frozenset({OK, ERROR, SKIPPED})
SOUND, BROKEN, PASSED_OVER, REFUSED = ({OK}, {ERROR}, {SKIPPED}, {ERROR, SKIPPED})
Make = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Case:
    """A file's name below the folder, how it is made, and the statuses that its row in `sources` may have."""

    name: str
    make: Make
    allowed: frozenset[str]


def make(cases: list[Case], folder: Path, outside: Path) -> None:
    """Write the files of all cases."""
    for case in cases:
        path = folder / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path, outside)


def hostile_cases() -> list[Case]:
    """All cases, more than 250 of them."""
    found = [Case(n, m, frozenset(a)) for n, m, a in [*damaged(), *claims(), *no_footage(), *odd(), *names(), *links()]]
    assert len({c.name for c in found}) == len(found)
    return found


def a_few(count: int = 25) -> list[Case]:
    """Some of each kind: every special case of names and links, and others spread evenly."""
    cases = hostile_cases()
    special = [Case(n, m, frozenset(a)) for n, m, a in [*list(names())[:4], *list(links())[:5], *list(claims())[:6]]]
    left = [c for c in cases if c.name not in {s.name for s in special}]
    step = len(left) / (count - len(special))
    return special + [left[int(i * step)] for i in range(count - len(special))]


def bytes_of(data: Callable[[], bytes]) -> Make:
    return lambda path, outside: path.write_bytes(data())


# -- damage -----------------------------------------------------------------------------------------------------------


def damaged() -> Iterator[tuple[str, Make, set[str] | frozenset[str]]]:
    """Every base truncated, with flipped bytes, with holes, with something before, after or in between."""
    for name in BASES:
        for cut in (0.002, 0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9, 0.99):
            yield (
                f"truncated_{cut}_{name}",
                bytes_of(lambda n=name, c=cut: base(n)[: max(1, int(len(base(n)) * c))]),
                ANY,
            )
        for share, seed in ((0.0005, 1), (0.002, 2), (0.01, 3), (0.05, 4), (0.3, 5)):
            yield f"flipped_{share}_{name}", bytes_of(lambda n=name, s=share, r=seed: flipped(base(n), s, r)), ANY
        yield f"header_{name}", bytes_of(lambda n=name: flipped(base(n)[:200], 0.05, 6) + base(n)[200:]), ANY
        yield f"hole_{name}", bytes_of(lambda n=name: holed(base(n))), ANY
        yield f"missing_{name}", bytes_of(lambda n=name: base(n)[:300] + base(n)[len(base(n)) // 2 :]), ANY
        yield f"twice_{name}", bytes_of(lambda n=name: base(n) * 2), ANY
        yield f"junk_after_{name}", bytes_of(lambda n=name: base(n) + random.Random(7).randbytes(5000)), ANY
        yield f"junk_before_{name}", bytes_of(lambda n=name: random.Random(8).randbytes(5000) + base(n)), ANY


# -- headers that claim what is not so --------------------------------------------------------------------------------


def claims() -> Iterator[tuple[str, Make, set[str] | frozenset[str]]]:
    """Huge sizes, durations, counts and gaps in time."""
    yield "huge_duration.mp4", bytes_of(lambda: patched("h264.mp4", b"mvhd", 16, b"\xff\xff\xff\xfe")), {OK}
    yield "huge_gaps.mp4", bytes_of(lambda: patched("h264.mp4", b"stts", 12, b"\x7f\xff\xff\xff")), ANY
    yield "huge_picture.mov", bytes_of(lambda: start_of_frame(65500, 65500)), {ERROR, SKIPPED}
    yield "large_picture.mov", bytes_of(lambda: start_of_frame(16000, 16000)), {ERROR, SKIPPED}
    yield (
        "huge_canvas.gif",
        bytes_of(lambda: after("gif.gif", b"GIF89a", struct.pack("<HH", 16000, 16000))),
        {ERROR, SKIPPED},
    )
    yield "huge_packets.mp4", bytes_of(lambda: patched("h264.mp4", b"stsz", 12, b"\x7f\xff\xff\xff")), ANY
    yield "far_gap.mkv", far_gap, {OK}
    yield "zero_step.mp4", bytes_of(lambda: patched("h264.mp4", b"stts", 12, bytes(4))), ANY
    yield "zero_timescale.mp4", bytes_of(lambda: patched("h264.mp4", b"mdhd", 12, bytes(4))), ANY
    yield "many_samples.mp4", bytes_of(lambda: patched("h264.mp4", b"stsz", 8, b"\x7f\xff\xff\xff")), ANY
    yield "far_chunks.mp4", bytes_of(lambda: patched("h264.mp4", b"stco", 8, b"\xff\xff\xff\xf0")), ANY
    yield "endless_box.mp4", bytes_of(lambda: patched("h264.mp4", b"moov", -4, b"\xff\xff\xff\xff")), ANY
    yield "nested_boxes.mp4", bytes_of(nested), {ERROR, SKIPPED}
    yield (
        "nan_duration.mkv",
        bytes_of(lambda: after("h264.mkv", b"\x44\x89\x88", struct.pack(">d", float("nan")))),
        {OK},
    )
    yield "long_duration.mkv", bytes_of(lambda: after("h264.mkv", b"\x44\x89\x88", struct.pack(">d", 1e300))), ANY
    yield "no_rate.avi", bytes_of(lambda: patched("mpeg4.avi", b"strh", 24, bytes(8))), ANY
    yield "many_frames.avi", bytes_of(lambda: patched("mpeg4.avi", b"avih", 20, b"\xff\xff\xff\x7f")), {OK}
    yield "backwards.mkv", backwards, ANY
    yield "many_streams.mkv", many_streams, {OK}


# -- what is no footage -----------------------------------------------------------------------------------------------


def no_footage() -> Iterator[tuple[str, Make, set[str]]]:
    """Nothing, sound, pictures, text, lists of other files, and all of that under the name of a video."""
    yield "empty.mp4", bytes_of(bytes), BROKEN
    yield "one_byte.mkv", bytes_of(lambda: b"\0"), BROKEN
    yield "zeros.mp4", bytes_of(lambda: bytes(100_000)), REFUSED
    yield "noise.mp4", bytes_of(lambda: random.Random(9).randbytes(200_000)), REFUSED
    yield "text.mp4", bytes_of(lambda: b"This is no video.\n" * 500), REFUSED
    yield "page.webm", bytes_of(lambda: b"<html><script>alert(1)</script></html>"), REFUSED
    yield "notes.txt", bytes_of(lambda: b"notes"), PASSED_OVER
    yield "program.mov", bytes_of(lambda: b"\x7fELF" + bytes(5000)), REFUSED
    yield "zipped.mp4", bytes_of(lambda: b"PK\x03\x04" + bytes(3000)), REFUSED
    for suffix, codec, rate in (("wav", "pcm_s16le", 8000), ("m4a", "aac", 16000), ("mp3", "libmp3lame", 16000)):
        yield f"sound.{suffix}", lambda p, _, c=codec, r=rate: sound(p, c, r), PASSED_OVER
    yield "sound.mp4", lambda p, _: sound(p, "aac", 16000), PASSED_OVER
    for suffix in ("png", "jpg", "webp", "tif", "bmp"):
        yield f"picture.{suffix}", lambda p, _: picture(p), REFUSED
    yield "picture.mp4", lambda p, _: picture_as(p, ".png"), REFUSED
    yield "one_frame.mp4", lambda p, _: write(p, shot(3, 1, width=96, height=64)), PASSED_OVER
    for suffix, text in LISTS.items():
        yield f"list.{suffix}", lambda p, o, t=text: p.write_text(t.format(folder=o)), REFUSED
        yield f"list_{suffix}.mp4", lambda p, o, t=text: p.write_text(t.format(folder=o)), REFUSED


LISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{folder}/secret.ts\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {folder}/secret.ts\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation>'
    "<BaseURL>file://{folder}/secret.ts</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "asx": '<asx version="3.0"><entry><ref href="file://{folder}/secret.ts"/></entry></asx>',
}


# -- sound footage that is unusual ------------------------------------------------------------------------------------


def odd() -> Iterator[tuple[str, Make, set[str]]]:
    """Odd sizes, depths, turns, containers under the wrong name: all of it is to be read."""
    for width, height in ((16, 16), (17, 13), (321, 181), (2048, 16), (16, 2048), (640, 32), (2, 2)):
        yield f"size_{width}x{height}.mkv", lambda p, _, w=width, h=height: sized(p, w, h), SOUND
    for turn in (90, 180, 270, 37):
        yield f"turned_{turn}.mp4", lambda p, _, t=turn: turned(p, t), SOUND
    for pix_fmt in ("yuv420p10le", "yuv444p", "yuv422p10le"):
        yield f"{pix_fmt}.mkv", lambda p, _, f=pix_fmt: deep(p, "libx264", f), SOUND
    for codec, pix_fmt in (
        ("ffv1", "gray16le"),
        ("ffv1", "bgr0"),
        ("ffv1", "yuva420p"),
        ("qtrle", "argb"),
        ("png", "rgb48be"),
    ):
        yield (
            f"{codec}_{pix_fmt}.mov" if codec in ("qtrle", "png") else f"{codec}_{pix_fmt}.mkv",
            (lambda p, _, c=codec, f=pix_fmt: deep(p, c, f)),
            SOUND,
        )
    for i, (name, suffix) in enumerate(
        [("h264.mp4", "avi"), ("h264.mkv", "mp4"), ("mpeg4.avi", "mov"), ("vp8.webm", "txt")]
    ):
        yield f"wrong_suffix_{i}.{suffix}", bytes_of(lambda n=name, i=i: base(n) + bytes(i + 1)), SOUND
    yield "no_suffix", bytes_of(lambda: base("h264.mkv") + bytes(9)), SOUND
    yield "two_frames.mp4", lambda p, _: write(p, shot(31, 2, width=96, height=64)), SOUND
    yield "black.mp4", lambda p, _: write(p, [np.zeros((64, 96, 3), np.uint8)] * 20), SOUND
    yield "white.mp4", lambda p, _: write(p, [np.full((64, 96, 3), 255, np.uint8)] * 20), SOUND
    yield "changing_size.ts", changing_size, SOUND
    yield (
        "fast.mkv",
        lambda p, _: write(p, shot(33, 24, width=96, height=64), fps=1000, codec="mjpeg", pix_fmt="yuvj420p"),
        SOUND,
    )


# -- names and links --------------------------------------------------------------------------------------------------


def names() -> Iterator[tuple[str, Make, set[str]]]:
    """Sound files whose names mean something to a shell, a page, a database, a terminal or a file system."""
    listed = [
        "名前 🎬 émoji.mp4",
        "up..%2f..%2fescape.mp4",
        "<script>alert(1)</script>.mp4".replace("/", "\u2215"),
        "'; DROP TABLE sources; --.mp4",
        "$(touch escaped) `touch escaped`.mp4",
        "line\nbreak\ttab.mp4",
        "\x1b[31mred\x1b[0m.mp4",
        "-v error -i.mp4",
        "concat:a.ts|b.ts.mp4",
        "file:x.mp4",
        "pipe:0.mp4",
        "[bold]markup[/bold].mp4",
        "%03d.mp4",
        "a*b?c[d].mp4",
        "back\\..\\slash.mp4",
        "{curly} #hash &amp;.mp4",
        "\u202egpj.exe.mp4",
        "…/deep/" * 12 + "down.mp4",
        "n" * 240 + ".mp4",
        b"not \xff\xfe utf8.mp4".decode("utf-8", "surrogateescape"),
        "trailing space .mp4 ",
    ]
    for i, name in enumerate(listed):
        yield name, bytes_of(lambda i=i: base("h264.mp4") + struct.pack(">I", 8 + i) + b"free" + bytes(i)), SOUND


def links() -> Iterator[tuple[str, Make, set[str]]]:
    """Links out of the folder, to nowhere, round and round; a pipe that nobody writes to; a folder like a file."""
    yield "link_out.mp4", lambda p, o: p.symlink_to(secret(o)), BROKEN
    yield "link_nowhere.mp4", lambda p, _: p.symlink_to("nothing.mp4"), BROKEN
    yield "link_loop.mp4", lambda p, _: p.symlink_to(p.name), BROKEN
    yield "link_root.mp4", lambda p, _: p.symlink_to("/"), BROKEN
    yield "pipe.mp4", lambda p, _: os.mkfifo(p), BROKEN
    yield "link_etc.mp4", lambda p, _: p.symlink_to("/etc/hostname"), BROKEN
    yield (
        "link_dots.mp4",
        lambda p, o: (secret(o), p.symlink_to("../" * 30 + str(o / "secret.ts").lstrip("/"))),
        BROKEN,
    )
    yield (
        "link_inside.mp4",
        lambda p, _: ((p.parent / "inside.mp4").write_bytes(base("front.mp4")), p.symlink_to("inside.mp4")),
        {OK, SKIPPED},
    )
    yield "folder.mp4/inner.mp4", bytes_of(lambda: base("h264.mp4") + bytes(77)), SOUND
