"""What two sets of videos are compared by."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from data_prep.sets.distance import CompareSets, vectors
from data_prep.sets.features import FEATURES, resized


def table(rows: list[np.ndarray], status: str = "ok") -> pa.Table:
    found = [{"id": str(i), "status": status, "vectors": len(r), "features": r.ravel()} for i, r in enumerate(rows)]
    return pa.Table.from_pylist(found, pa.schema([("id", pa.string()), ("status", pa.string()), *FEATURES]))


def of_units(rows: pa.Table, part: str) -> pa.Table:
    """The same rows with the units that they are of."""
    return rows.append_column("unit_id", pa.array([f"{part} {i}" for i in rows.column("id").to_pylist()]))


def test_pictures_keep_their_corner_and_take_pixels_as_the_reference_networks_do():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
    small = resized(frames, 4).numpy()
    assert small.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(small[:, :, :, 0], frames[:, ::2, 0].transpose(0, 2, 1), atol=1e-3)
    same = resized(np.repeat(frames[:, :6], 1, axis=0), 6).numpy()
    np.testing.assert_allclose(same, frames[:, :6].transpose(0, 3, 1, 2), atol=1e-3)


def test_rows_that_failed_and_the_order_of_rows_do_not_count():
    rows = [np.full((2, 3), i, np.float32) for i in range(4)]
    good, bad = table(rows), table(rows, "error")
    np.testing.assert_array_equal(vectors(pa.concat_tables([bad, good.take([3, 1, 0, 2])])), np.concatenate(rows))


def test_small_sets_get_a_reason_instead_of_a_number():
    rng = np.random.default_rng(1)
    many, few = (table([rng.normal(size=(2, 3)).astype(np.float32) for _ in range(n)]) for n in (8, 3))
    job = CompareSets(CompareSets.Config(least_videos=10, least_frames=5), None)
    rows = pa.concat_tables([of_units(many, "judged"), of_units(few, "reference")])
    units = [{"id": u, "part": u.split()[0]} for u in rows.column("unit_id").to_pylist()]
    found = job.run({"motion": rows, "pictures": rows, "units": pa.Table.from_pylist(units)}).to_pylist()
    assert [r["distance"] for r in found] == ["fvd", "fid"]
    assert math.isnan(found[0]["value"])
    assert found[0]["refused"] == "10 vectors are needed in each set; the sets have 16 and 6"
    assert found[1]["value"] > 0
    assert (found[1]["judged"], found[1]["reference"], found[1]["refused"]) == (16, 6, "")
