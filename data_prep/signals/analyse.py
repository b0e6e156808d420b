"""Decode each source once and keep a table of signals, with a row per frame, and small pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.carried import FILE
from data_prep.sources.ingest import EVERY_CORE
from stages.core.errors import require
from stages.core.step import ARTIFACT, Inputs, Resources, Row, Step

PICTURES = pa.schema([("frame", pa.int64()), ("pts", pa.int64()), ("jpeg", pa.binary())])
LOST_FROM = 0.98
"""The share of a source's frames below which the number of those that decode is said."""
PICTURES_SUFFIX = ".pictures.parquet"


class Analyse(Step):
    """The one pass over a source. All later measurements of it read the signals that are kept here."""

    kind = "signals"
    version = 3
    heft = "bytes"
    writes = pa.schema(
        [
            *ARTIFACT,
            ("pictures_uri", pa.string()),
            ("pictures_sha256", pa.string()),
            ("pictures_size", pa.int64()),
            ("n_frames", pa.int64()),
            ("duration_s", pa.float64()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("bar_top", pa.float64()),
            ("bar_bottom", pa.float64()),
            ("bar_left", pa.float64()),
            ("bar_right", pa.float64()),
            ("truncated", pa.bool_()),
            ("broken_packets", pa.int64()),
            ("decode_note", pa.string()),
        ]
    )
    resources = Resources(batch_rows=1, workers=EVERY_CORE, time_limit_s=7500)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How closely a source is examined; see `data_prep.signals.signals.SignalConfig`.

        flow_hz       [above 0] how often optical flow is measured, per second of the source
        detail_hz     [above 0] how often sharpness, blockiness and bars are measured, per second
        pictures_hz   [above 0] how often a small picture is kept, per second
        pictures      [from 2] pictures kept of one source, at most; above that number every second one is dropped
        max_errors    broken packets after which the rest of a source is not decoded
        time_limit_s  seconds that one source may take, at most; 0 sets no limit. Does not change results. On Ray,
                      `resources.time_limit_s` ends a worker that hangs, so raise that too and keep it the larger of the
                      two
        """

        flow_hz: float = 10.0
        detail_hz: float = 1.0
        pictures_hz: float = 1.0
        pictures: int = 4096
        max_errors: int = 100
        time_limit_s: float = field(default=7200.0, metadata={"identity": False})

        def __post_init__(self) -> None:
            require(
                (self.flow_hz > 0, "flow_hz", self.flow_hz, "above 0"),
                (self.detail_hz > 0, "detail_hz", self.detail_hz, "above 0"),
                (self.pictures_hz > 0, "pictures_hz", self.pictures_hz, "above 0"),
                (self.pictures >= 2, "pictures", self.pictures, "at least 2"),
            )

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What a source is, and where its file lies."""
        return Inputs(depends=("source_id",), carries=(*FILE, "n_frames"))

    def process(self, row: Row) -> Row:
        """Decode, measure, keep. Raises ValueError where no frame can be decoded, TimeoutError at the time limit."""
        from data_prep.signals.signals import decode_signals
        from data_prep.signals.store import write_signals
        from data_prep.sources.reading import open_media, unchanged_file

        limit_s = self.config.time_limit_s
        with (
            unchanged_file(row["uri"], row["bytes"], row["sha256"], row["version"]) as path,
            open_media(path, limit_s) as container,
        ):
            signals = decode_signals(
                container,
                self.signal_config(self.config),
                stream_index=row["stream_index"],
                time_limit_s=limit_s,
            )
        if signals.truncated and "time limit" in (signals.decode_error or ""):
            raise TimeoutError(signals.decode_error)
        pictures = self.workspace.put(pack_pictures(signals.thumbnails), PICTURES_SUFFIX)
        return {
            **write_signals(self.workspace, signals.table),
            **{f"pictures_{name}": value for name, value in pictures.items()},
            "n_frames": signals.table.num_rows,
            "duration_s": signals.table.column("time_s")[-1].as_py(),
            "width": signals.width,
            "height": signals.height,
            **{f"bar_{side}": float(share) for side, share in (signals.bars._asdict() if signals.bars else {}).items()},
            "truncated": signals.truncated,
            "broken_packets": signals.broken,
            "decode_note": self._note(signals, row["n_frames"]),
        }

    @staticmethod
    def _note(signals: Any, packets: int) -> str:
        """What went wrong on the way, and how much of a source was seen where that is not all of it."""
        said = signals.decode_error or ""
        if signals.broken and signals.table.num_rows < LOST_FROM * packets:
            return f"only {signals.table.num_rows} of {packets} frames can be decoded: {said}"
        return said

    @staticmethod
    def signal_config(config: Config) -> Any:
        """The `data_prep.signals.signals.SignalConfig` that these settings mean."""
        from data_prep.signals.signals import Rates, SignalConfig

        rates = Rates(flow=config.flow_hz, detail=config.detail_hz, thumbnails=config.pictures_hz)
        return SignalConfig(rates=rates, thumbnails=config.pictures, max_errors=config.max_errors)


def pack_pictures(pictures: Any) -> bytes:
    """Thumbnails as one Parquet file, uncompressed because they are JPEG."""
    rows = [{"frame": p.frame, "pts": p.pts, "jpeg": p.jpeg} for p in pictures]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, PICTURES), buffer, compression="none", row_group_size=256)
    return buffer.getvalue()
