"""How fast the analysing pass is, beside a bare decode and PySceneDetect, and that its memory does not grow.

    python tests/benchmarks/bench_pass.py [CLIP]

A real clip is scaled to 1080p H.264 at about 4.6 Mb/s. Bare libavcodec decode, the whole pass (all signals, hash,
thumbnails, cuts) and PySceneDetect's ContentDetector take turns on one core; medians of CPU milliseconds a frame. One
JSON line a figure.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROUNDS = 5


def bare(path: str) -> int:
    """Decode every frame and do nothing with it."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.thread_type = 1, "NONE"
        return sum(1 for _ in container.decode(stream))


def whole(path: str) -> int:
    """The pass as curation does it, and the cuts from it."""
    from data_prep.shots.shots import find_shots
    from data_prep.signals.analyse import Analyse
    from data_prep.signals.signals import decode_signals

    signals = decode_signals(path, Analyse.signal_config(Analyse.Config()))
    find_shots(signals.table)
    return len(signals.table)


def content(path: str) -> int:
    """PySceneDetect's ContentDetector with its defaults."""
    import cv2
    import scenedetect

    cv2.setNumThreads(1)
    video = scenedetect.open_video(path)
    manager = scenedetect.SceneManager()
    manager.add_detector(scenedetect.ContentDetector())
    return int(manager.detect_scenes(video))


def source(clip: Path, folder: Path, loops: int) -> Path:
    """The clip at 1080p H.264, repeated."""
    import imageio_ffmpeg

    out = folder / f"{loops}.mp4"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    if loops == 1:
        scale = "scale=1920:1080:force_original_aspect_ratio=increase,crop=1920:1080"
        codec = ["-c:v", "libx264", "-preset", "medium", "-b:v", "4600k", "-pix_fmt", "yuv420p", "-threads", "2"]
        subprocess.run([*ffmpeg, "-i", clip, "-vf", scale, "-an", *codec, out], check=True)
    else:
        once = folder / "1.mp4"
        subprocess.run([*ffmpeg, "-stream_loop", str(loops - 1), "-i", once, "-c", "copy", out], check=True)
    return out


def peak_mb(path: Path) -> dict[str, float]:
    """Peak memory, in MB, of a process of its own that runs the whole pass."""
    done = subprocess.run([sys.executable, __file__, "--peak", path], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def report_peak(path: str) -> None:
    frames = whole(path)
    print(json.dumps({"frames": frames, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def timed(work: Callable[[str], int], path: Path) -> float:
    """CPU milliseconds a frame."""
    began = time.process_time()
    frames = work(str(path))
    return (time.process_time() - began) * 1000 / frames


def main(clip: Path) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as name:
        folder = Path(name)
        short = source(clip, folder, 1)
        runs: dict[str, Callable[[str], int]] = {"bare": bare, "whole": whole}
        try:
            import scenedetect  # noqa: F401

            runs["content"] = content
        except ImportError:
            print(json.dumps({"bench": "pass", "skipped": "PySceneDetect is not installed"}))
        for work in runs.values():
            work(str(short))
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(ROUNDS):
            for key, work in runs.items():
                times[key].append(timed(work, short))
        median = {key: statistics.median(values) for key, values in times.items()}
        for key, value in median.items():
            print(json.dumps({"bench": "pass", "what": key, "ms_a_frame": round(value, 3), "fps": round(1000 / value)}))
        ratio = statistics.median(b / w for b, w in zip(times["bare"], times["whole"], strict=True))
        print(json.dumps({"bench": "pass", "what": "whole pass over bare decode", "ratio": round(ratio, 3)}))
        if "content" in times:
            ratio = statistics.median(c / w for c, w in zip(times["content"], times["whole"], strict=True))
            print(json.dumps({"bench": "pass", "what": "times PySceneDetect Content", "ratio": round(ratio, 2)}))
        for path in (short, source(clip, folder, 10)):
            print(json.dumps({"bench": "pass", "what": "peak memory", **peak_mb(path)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        report_peak(sys.argv[2])
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data_prep" / "footage" / "juggling.mp4")
