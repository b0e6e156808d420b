"""Write each kept clip as a file of its own: exactly its frames, copied where possible, and checked.

Frames are counted in presentation order, from a key frame whose time is an address, or from the start of the file.
Where
a clip begins on such a key frame, and ends at one or with the source, and is shown as it is stored, its packets are
copied;
otherwise its frames are decoded and encoded again. Either way the written file is decoded, and every frame of it is
held
against what the pass over the source saw (`data_prep.publish.check`). A copy that does not hold is encoded, what was
reached by seeking and does not hold is counted from the start, and what does not hold then is an error.

All clips of a source cost at most one decode of it: where seeking to each would cost more, one pass writes them all.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.publish.cutting import VideoForm
from stages.core.step import ARTIFACT, Inputs, Rejected, Resources, Row, Step

SOURCES_OPEN = 4
"""Sources whose signals and files a worker keeps at hand."""

DECIDES = ("clip_id", "source_id", "stream_index", "start_frame", "end_frame", "codec", "has_audio")
CARRIED = ("uri", "bytes", "source_sha256", "source_version", "signals_uri", "siblings")
"""siblings: they only make several clips in one pass."""


class CutClip(Step):
    """One mp4 per kept clip."""

    kind = "cut"
    version = 4
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
            ("largest_difference", pa.float64()),
        ]
    )
    resources = Resources(batch_rows=4)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How a clip is cut.

        video       a common form for all clips
        audio       keep the sound
        crf         quality of x264, 0 to 51; lower is better
        preset      speed preset of x264
        difference  largest allowed difference between a frame of the written file and the source's frame, in grey
                    levels (root mean square of 18 x 32 cells)
        """

        video: VideoForm = field(default_factory=VideoForm)
        audio: bool = False
        crf: int = 18
        preset: str = "medium"
        difference: float = 6.0

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The span of a source, and what its stream is like; where its file lies, what the pass saw of it, and what
        else is cut from it are carried."""
        return Inputs(depends=DECIDES, carries=CARRIED)

    def __init__(self, config: Any, workspace: Any, name: str = "") -> None:
        super().__init__(config, workspace, name)
        self._sources: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory(prefix="rushes-")
        self._made: dict[tuple[str, int, int], tuple[Path, Row] | Exception] = {}

    def process(self, row: Row) -> Row:
        """Cut, check and keep one clip. Raises BadMedia where no way of cutting gives its frames, PermanentError where
        the source is another file now, Rejected for a clip that has fewer frames than wanted."""
        form, first, end = self.config.video, row["start_frame"], row["end_frame"]
        if form.frames and not form.fps and end - first < form.frames:
            raise Rejected("n_frames", end - first, ">=", form.frames)
        source = self._source(row)
        key = (source.key, first, end)
        if key not in self._made and source.in_one_pass:
            self._pass(source)
        with tempfile.TemporaryDirectory(prefix="rushes-") as folder:
            made = self._made.pop(key, None) or self._cut(source, first, end, Path(folder) / "clip.mp4")
            if isinstance(made, Exception):
                raise made
            target, facts = made
            source.check_unchanged()
            kept = self.workspace.put(target.read_bytes(), ".mp4")
            if target.parent != Path(folder):
                target.unlink()
        return {"clip_id": row["clip_id"], **kept, **facts}

    def _source(self, row: Row) -> Any:
        """The source of a row, from those at hand where it is there."""
        from data_prep.publish.origin import Origin, stamp

        key = (row["uri"], row["source_sha256"], row["stream_index"], row["siblings"], stamp(row["uri"]))
        if key not in self._sources:
            while len(self._sources) >= SOURCES_OPEN:
                self._sources.popitem(last=False)[1].close()
            self._sources[key] = Origin(row, self.workspace)
        self._sources.move_to_end(key)
        return self._sources[key]

    def _pass(self, source: Any) -> None:
        """Write all clips of a source that are wanted, in one decode of it. Those that are not asked for go with the
        worker."""
        for first, end in source.siblings:
            target = Path(self._folder.name) / f"{source.key}-{first}-{end}.mp4"
            form = self.config.video
            if form.frames and not form.fps and end - first < form.frames:
                continue
            try:
                self._made[source.key, first, end] = self._cut(source, first, end, target)
            except Exception as error:  # it belongs to the row of that clip
                self._made[source.key, first, end] = error
        source.in_one_pass = False

    def _cut(self, source: Any, first: int, end: int, target: Path) -> tuple[Path, Row]:
        """Try the ways of cutting in turn; the first whose result holds is taken."""
        from av import FFmpegError

        from data_prep.publish.check import check_written, read_written
        from data_prep.publish.cutting import Quality, copy_packets, encode
        from data_prep.publish.sound import check_sound
        from stages.core.full_disk import as_cannot_write
        from stages.core.media import BadMedia

        form, seen = self.config.video, source.seen(first, end)
        sound = source.sound(first, end, self._length(seen)) if self.config.audio else None

        def encoded(index: Any) -> None:
            reader, times = source.reader(index), source.shown(first, end)
            frames: Iterator[Any] = reader.frames(first, end)
            begin = next(frames)
            encode(
                _paired(begin, frames, times),
                reader.stream,
                target,
                form,
                Quality(self.config.crf, self.config.preset),
                sound,
            )

        ways: list[tuple[str, Callable[[], None]]] = []
        if source.can_copy(first, end) and not form.changes:
            ways.append(
                (
                    "copy",
                    lambda: copy_packets(source.path, source.stream_index, source.index, first, end, target, sound),
                )
            )
        ways.append(("encode", lambda: encoded(source.index)))
        if source.index.keys:
            ways.append(("encode", lambda: encoded(source.index.counted())))
        problem = ""
        for name, way in ways:
            try:
                way()
                checked = check_written(read_written(target), seen, form, self.config.difference)
                if sound is not None:
                    check_sound(target, self._length(seen))
                return target, {**_facts(target), "method": name, **checked}
            except (BadMedia, OSError, FFmpegError, StopIteration) as error:
                if as_cannot_write(error):
                    raise
                problem = str(error)
        raise BadMedia(problem)

    def _length(self, seen: Any) -> float:
        """How long the written clip is, in seconds."""
        form = self.config.video
        if not form.frames:
            return float(seen.length_s)
        if form.fps:
            return float(min(seen.length_s, form.frames / form.fps))
        whole = float(seen.length_s)
        return float(seen.seconds[form.frames]) if form.frames < len(seen.seconds) else whole


def _paired(begin: Any, frames: Iterator[Any], times: Any) -> Iterator[tuple[Any, Any]]:
    yield begin, times[0]
    yield from zip(frames, times[1:], strict=True)


def _facts(target: Path) -> Row:
    from data_prep.sources.ingest import probe

    found = probe(target, lambda: None)
    names = ("display_width", "display_height", "n_frames", "fps", "duration_s", "has_audio")
    return dict(zip(("width", "height", *names[2:]), (found[n] for n in names), strict=True))
