"""Sound beside published pictures, by the command line: each clip has the sound of its own frames, as long as they are,
whether it was copied or encoded, and also where footage was joined end to end.

The sound of every source rises in pitch, so that the pitch tells the time. What a clip shows and sounds is read by
ffmpeg, which plays a file from its start; the project reads by PyAV, and seeks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from flows.cli.main import main
from stages.core.media import ffmpeg_binary
from tests.data_prep.numbered import H264, KEYS, ONE_KEY, SHOT, encoded, ffmpeg, frames, number_of
from tests.flows.curated import KEEP_ALL

RATE, LOW, RISE, WINDOW = 16000, 500.0, 800.0, 640
"""Samples a second; the pitch of a source at its start in Hz, and by how much it rises in a second; samples that tell
a pitch, 40 ms."""
NEAR = 0.06
"""Seconds by which sound may be off at its edges; about a packet of it."""
JOINED = {
    "repeat": (KEYS, 1, (0, 0)),
    "repeat_inside": (ONE_KEY, 2, (0, 0)),
    "back": (KEYS, 1, (30, 0)),
    "ahead": (KEYS, 1, (0, 90)),
}
"""Key frames, shots of each of two parts, and when the times of each part begin."""
SILENT = {"late.mkv": 0.6}
"""Seconds from the first picture of a source to its first sound."""


def rising(path: Path, start: float, end: float) -> Path:
    """The sound of a source between two times: at t seconds its pitch is LOW + RISE * t."""
    phase = f"{LOW}*(t+{start})+{RISE / 2}*(t+{start})*(t+{start})"
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc=0.5*sin(2*PI*({phase})):s={RATE}:d={end - start}", path)
    return path


def make(folder: Path, tmp: Path) -> None:
    """Footage whose frames carry their number and whose sound tells its time."""
    seed = 1
    for name, (keys, shots, offsets) in JOINED.items():
        parts = []
        for first, offset in zip((0, shots * SHOT), offsets, strict=True):
            picture = encoded(tmp / "part.mp4", frames(range(seed, seed + shots), first), *H264, keys)
            sound = rising(tmp / "part.wav", first / 25, (first + shots * SHOT) / 25)
            words = ("-c:v", "copy", "-c:a", "aac", "-output_ts_offset", offset)
            ffmpeg("-i", picture, "-i", sound, *words, tmp / "part.ts")
            parts.append((tmp / "part.ts").read_bytes())
            seed += shots
        (folder / f"{name}.ts").write_bytes(b"".join(parts))
    chunks = ("-chunk_duration", "900000")
    for name, start, words in (("chunks.mp4", 0.0, chunks), ("late.mkv", SILENT["late.mkv"], ())):
        picture = encoded(tmp / "whole.mp4", frames((seed, seed + 1)), *H264, KEYS)
        sound = rising(tmp / "whole.wav", start, 2 * SHOT / 25)
        copied = ("-c:v", "copy", "-c:a", "aac", *words, folder / name)
        ffmpeg("-i", picture, "-itsoffset", start, "-i", sound, *copied)
        seed += 2


def played(path: Path, width: int, height: int, tmp: Path) -> tuple[np.ndarray, np.ndarray]:
    """What a file shows in grey [n, height, width], and what it sounds: samples [n], from its first picture on."""
    shows = ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    sounds = ["-map", "0:a:0", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", str(RATE), "-f", "f32le"]
    words = [ffmpeg_binary(), "-v", "error", "-y", "-i", str(path), *shows, *sounds, str(tmp / "sound")]
    done = subprocess.run(words, check=True, capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width), np.fromfile(tmp / "sound", np.float32)


def told(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each window of a sound in seconds [n], and the time that its pitch tells [n], NaN for silence."""
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), 1 << 14))
    times = (power.argmax(1) * RATE / (1 << 14) - LOW) / RISE
    return (np.arange(len(windows)) + 0.5) * WINDOW / RATE, np.where(np.abs(windows).max(1) < 0.1, np.nan, times)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a curation of that footage."""
    folder, found = tmp_path_factory.mktemp("footage"), tmp_path_factory.mktemp("store") / "store"
    make(folder, tmp_path_factory.mktemp("parts"))
    words = ["curate", str(folder), "--store", str(found), "copies.hash_bits=-1", *KEEP_ALL, "infra.executor=local"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return found


@pytest.mark.parametrize(
    ("form", "methods", "rate", "length"),
    [
        ((), {"copy", "encode"}, 25, SHOT),
        (("publish.video.size=224", "publish.video.fps=12.5"), {"encode"}, 12.5, SHOT // 2),
    ],
)
def test_each_clip_shows_its_own_frames_and_has_their_sound(store, tmp_path, form, methods, rate, length):
    done = CliRunner().invoke(main, ["publish", "set", "--store", str(store), "publish.audio=true", *form])
    assert done.exit_code == 0, done.output
    assert "not cut" not in done.output
    version = max((store / "datasets" / "set").iterdir(), key=lambda p: int(p.name[1:]))
    rows = pq.read_table(version / "index.parquet").to_pylist()
    wanted = {f"{n}.ts": 2 * shots for n, (_, shots, _) in JOINED.items()} | {"chunks.mp4": 2, "late.mkv": 2}
    spans = {(n, i * SHOT, (i + 1) * SHOT) for n, shots in wanted.items() for i in range(shots)}
    assert {(Path(r["source_uri"]).name, r["start_frame"], r["end_frame"]) for r in rows} == spans
    assert {r["method"] for r in rows} == methods
    for row in rows:
        name, first = Path(row["source_uri"]).name, row["start_frame"]
        pictures, samples = played(version / row["uri"], row["width"], row["height"], tmp_path)
        off = np.array([number_of(p) for p in pictures]) - first - np.arange(length) * 25 / rate
        assert np.abs(off).max() <= 25 / rate - 1, (name, first)
        assert len(samples) / RATE == pytest.approx(length / rate, abs=NEAR), (name, first)
        at, times = told(samples)
        at, late, inside = at + first / 25, SILENT.get(name, 0.0), (at > NEAR) & (at < length / rate - NEAR)
        assert np.isnan(times[at < late - NEAR]).all(), (name, first)
        assert np.abs(times - at)[inside & (at > late + NEAR)].max(initial=0) < 0.02, (name, first)
