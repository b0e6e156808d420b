"""Write one kept clip as a file of its own: exactly its span, copied where that can be, and checked.

Where the span begins on a key frame, and ends on one or at the end of the stream, its packets are copied as they are.
Otherwise its frames are decoded and encoded again. Either way the file is decoded and held against the source: the
number of frames, the first and the last one. A copy that does not hold is encoded; an encoding that does not, fails.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.step import ARTIFACT, Inputs, PermanentError, Rejected, Resources, Row, Step

COPYABLE = frozenset({"h264", "hevc", "av1", "mpeg4", "vp9"})


@dataclass(frozen=True, kw_only=True)
class VideoForm:
    """What every published clip is brought to; 0 leaves it as the source has it.

    fps     frames a second
    size    pixels of the shorter side, made even; the aspect stays
    frames  the first so many frames; a clip that has fewer is rejected, and is not in the dataset
    """

    fps: float = 0.0
    size: int = 0
    frames: int = 0

    def __post_init__(self) -> None:
        if min(self.fps, self.size, self.frames) < 0 or self.size % 2:
            raise BadInput("video: fps, size and frames are from 0, and size is even")

    @property
    def changes(self) -> bool:
        """Whether clips are changed at all."""
        return bool(self.fps or self.size or self.frames)


SPAN = (
    "source_id", "stream_index", "start_pts", "end_pts", "time_base_num", "time_base_den", "start_frame", "end_frame",
)  # fmt: skip
STREAM = ("codec", "container", "interlaced", "width", "height", "has_audio", "keyframe_start", "keyframe_end")


class CutClip(Step):
    """One mp4 per kept clip."""

    kind = "cut"
    version = 2
    writes = pa.schema(
        [
            ("clip_id", pa.string()),
            *ARTIFACT,
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("n_frames", pa.int64()),
            ("fps", pa.float64()),
            ("duration_s", pa.float64()),
            ("method", pa.string()),
            ("has_audio", pa.bool_()),
            ("first_difference", pa.float64()),
            ("last_difference", pa.float64()),
        ]
    )
    resources = Resources(batch_rows=4)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """video: a common form. audio: keep the sound. crf 0 to 51 and preset are x264's. difference: see `_check`."""

        video: VideoForm = field(default_factory=VideoForm)
        audio: bool = False
        crf: int = 18
        preset: str = "medium"
        difference: float = 6.0

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The span of a source, and what its stream is like; where its file lies is carried."""
        return Inputs(depends=("clip_id", *SPAN, *STREAM), carries=("uri", "bytes"))

    def process(self, row: Row) -> Row:
        """Cut, check and keep one clip. Raises BadMedia where no way of cutting gives its frames, PermanentError where
        the source is another file now, Rejected for a clip that has fewer frames than wanted."""
        from data_prep.publish.cutting import source_ends, span_of
        from data_prep.sources.reading import local_file

        form = self.config.video
        with local_file(row["uri"]) as path, tempfile.TemporaryDirectory(prefix="rushes-") as folder:
            if path.stat().st_size != row["bytes"]:
                raise PermanentError("the source changed after it was curated; curate again")
            span, target = span_of(row), Path(folder) / "clip.mp4"
            if form.frames and not form.fps and span.n_frames < form.frames:
                raise Rejected("n_frames", span.n_frames, ">=", form.frames)
            ends = source_ends(path, span, every=bool(form.fps or form.frames))
            method, checked = self._write(row, path, span, ends, target)
            kept = self.workspace.put(target.read_bytes(), ".mp4")
            return {"clip_id": row["clip_id"], **kept, **self._facts(target), "method": method, **checked}

    def _write(self, row: Row, path: Path, span: Any, ends: Any, target: Path) -> tuple[str, Row]:
        """Try the ways of cutting in turn; the first whose result holds is taken."""
        from data_prep.publish.cutting import copy_packets, encode
        from stages.core.media import BadMedia

        audio = self.config.audio and bool(row["has_audio"])
        options = {"vcodec": "libx264", "pix_fmt": "yuv420p", "crf": self.config.crf, "preset": self.config.preset}
        options |= {"threads": 1, **({"acodec": "aac"} if audio else {})}
        options |= {"shortest": None} if audio and self.config.video.frames else {}
        ways: list[tuple[str, Callable[[], None]]] = [
            ("encode", lambda: encode(path, row["container"], span, target, self._chain(row), audio, options)),
            ("count", lambda: encode(path, row["container"], span, target, self._chain(row), audio, options, True)),
        ]
        if self._can_copy(row):
            ways.insert(0, ("copy", lambda: copy_packets(path, span, target, audio)))
        problem = ""
        for name, way in ways:
            try:
                way()
                loose = 1.5 if name == "count" else 0.5
                return "copy" if name == "copy" else "encode", self._check(span, ends, target, loose)
            except (BadMedia, OSError) as error:
                problem = str(error)
        raise BadMedia(problem)

    def _can_copy(self, row: Row) -> bool:
        ends_well = row["keyframe_start"] and row["keyframe_end"]
        return bool(ends_well and row["codec"] in COPYABLE and not self.config.video.changes)

    def _chain(self, row: Row) -> list[tuple[str, dict[str, Any]]]:
        """Fields made into frames, square pixels, even sizes, then the common form."""
        form = self.config.video
        width, height = row["width"], row["height"]
        scale = form.size / min(width, height) if form.size else 1.0
        even = {
            "w": max(2, round(width * scale / 2) * 2),
            "h": max(2, round(height * scale / 2) * 2),
            "flags": "bicubic",
        }
        chain: list[tuple[str, dict[str, Any]]] = [("bwdif", {"mode": "send_frame"})] if row["interlaced"] else []
        chain += [("scale", {**even, "flags": "bicubic"}), ("setsar", {"sar": "1"})]
        chain += [("fps", {"fps": form.fps, "round": "up"})] if form.fps else []  # what shows at each moment
        return chain + ([("trim", {"end_frame": form.frames})] if form.frames else [])

    def _check(self, span: Any, ends: Any, target: Path, loose: float) -> Row:
        """Hold a written clip against its span: as many frames, as long but for so many of them, and ends that differ
        by less than `difference` grey levels (root mean square at 64 x 36). Where the form picks frames, its last one
        is held against those of the source that show at its time."""
        from data_prep.publish.cutting import difference, written_ends
        from stages.core.media import BadMedia

        found, form = written_ends(target), self.config.video
        if form.fps and form.frames and found.n_frames < form.frames:
            raise Rejected("n_frames", found.n_frames, ">=", form.frames)
        expected = form.frames or (0 if form.fps else span.n_frames)
        if expected and found.n_frames != expected:
            raise BadMedia(f"the written clip has {found.n_frames} frames, its span {expected}")
        if problem := self._times(span, ends, found, loose):
            raise BadMedia(problem)
        first = difference(ends.first, found.first)
        last = min(difference(grey, found.last) for grey in self._last(ends, found.n_frames))
        if max(first, last) > self.config.difference:
            raise BadMedia(f"the written clip's ends differ from the source's by {first:.1f} and {last:.1f} levels")
        return {"first_difference": first, "last_difference": last}

    def _times(self, span: Any, ends: Any, found: Any, loose: float) -> str:
        """What is wrong with a written clip's times, "" where it lasts as long as its span. Frames that were found by
        counting come from streams without times, for which two readers make up different ones."""
        form = self.config.video
        if form.frames or min(ends.seconds, found.seconds) < 0:
            return ""
        slack = 1.5 / form.fps if form.fps else 0.0
        if abs(found.seconds - ends.seconds) <= loose * (span.end_s - span.start_s) / span.n_frames + slack:
            return ""
        return f"the written clip's last frame comes after {found.seconds:.3f} s, its span's after {ends.seconds:.3f} s"

    def _last(self, ends: Any, written: int) -> list[Any]:
        """What the last frame of a clip of so many frames may show, in small grey."""
        form = self.config.video
        if form.fps:
            return list(ends.near((written - 1) / form.fps))
        return [ends.greys[form.frames - 1]] if form.frames else [ends.last]

    def _facts(self, target: Path) -> Row:
        from data_prep.sources.ingest import probe

        found = probe(target, lambda: None)
        names = ("display_width", "display_height", "n_frames", "fps", "duration_s", "has_audio")
        return dict(zip(("width", "height", *names[2:]), (found[n] for n in names), strict=True))
