"""Hold what was measured of a video against thresholds: which takes pass, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import pyarrow as pa

from stages.core.errors import BadInput
from stages.core.measures.take_metrics import METRICS
from stages.core.step import Inputs, Port, Rejected, Resources, Row, Step, reason


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a metric may be, both ends included; null: no limit.

    min  the minimum
    max  the maximum
    """

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("min", self.min), ("max", self.max)):
            if value is not None and math.isnan(value):
                raise BadInput(f"{name} must be a number or null, not {value}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise BadInput(f"min is {self.min:g}, which is above max, {self.max:g}: nothing would pass")


class Qc(Step):
    """Measures nothing, so another threshold costs this step alone. What was not measured fails nothing.

    A row that does not pass is `rejected`, with every reason, and holds its metrics all the same.
    """

    kind = "qc"
    writes = pa.schema([(name, pa.float64()) for name in METRICS])
    resources = Resources(cpus=0.0625, batch_rows=32)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What each metric may be, such as `qc.flicker.max=0.03`; null lifts a limit. docs/rendering.md says how the
        defaults were found.

        flicker         fluttering light, as a share of it: mean absolute second difference of the brightness
        frozen          share of the frames that stand still for three and more in a row, in a clip that moves, 0 to 1
        stutter         share of the frames that are the one before once more, between moving ones, 0 to 1
        jerk            mean absolute second difference of the speed, as a share of the mean speed
        blur            sigma of the blur of the sharpest edges, beyond that of pixels, in those of a picture of 512
        sharpness       median variance of the Laplacian at 512 pixels, as in curation
        cuts            cuts, fades, dissolves and wipes that curation's detector finds
        colour_drift    how far colours stray from those at the beginning, in CIE76 delta E
        dynamic_degree  mean speed of the fastest twentieth of the picture, in diagonals a second
        warp_error      what motion leaves unexplained between two frames, in grey levels
        blank           share of frames in which there is nothing to see, 0 to 1
        """

        flicker: Range = field(default=Range(max=0.01))
        frozen: Range = field(default=Range(max=0.15))
        stutter: Range = field(default=Range(max=0.08))
        jerk: Range = field(default=Range())
        blur: Range = field(default=Range(max=1.5))
        sharpness: Range = field(default=Range())
        cuts: Range = field(default=Range(max=0))
        colour_drift: Range = field(default=Range(max=6))
        dynamic_degree: Range = field(default=Range())
        warp_error: Range = field(default=Range())
        blank: Range = field(default=Range(max=0.1))

    @classmethod
    def of_preview(cls, config: Config) -> Config:
        """The thresholds for a preview of what later steps enlarge and sharpen: those of the clip, but for blur, which
        is measured against the size of a finished one."""
        return replace(config, blur=Range())

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """What was measured."""
        return Inputs(ports={"measures": Port(kind="measures")})

    def process(self, row: Row) -> Row:
        """The metrics of one video. Raises Rejected for what does not pass."""
        measured = row["measures"]
        columns = {name: measured[name] for name in METRICS}
        reasons = [*measured["faults"], *unmet(columns, self.config)]
        if reasons:
            raise Rejected.because(reasons, columns)
        return columns


def unmet(columns: Row, config: Qc.Config) -> Iterator[Row]:
    """A reason for every metric that is outside its range; null is in every range."""
    for name in (f.name for f in fields(config)):
        value, limits = columns[name], getattr(config, name)
        if value is None:
            continue
        if limits.min is not None and value < limits.min:
            yield reason(name, round(value, 6), ">=", f"{limits.min:g}")
        if limits.max is not None and value > limits.max:
            yield reason(name, round(value, 6), "<=", f"{limits.max:g}")
