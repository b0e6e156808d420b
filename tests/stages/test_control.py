"""Signals made of footage: where lines and motions are, said by how the footage was drawn."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from stages.control import Control
from stages.core.errors import BadInput
from stages.core.measures.control import edges, flow_colours
from stages.core.media import BadMedia, read_frames, write_video
from stages.core.step import InputRow

SHA = "a" * 64


def square(frames=6, dx=4, dy=0, size=(96, 64)):
    """A textured square [F, H, W, 3] that moves dx, dy pixels a frame, on grey."""
    width, height = size
    texture = np.random.default_rng(1).integers(60, 256, (6, 6, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    made = np.full((frames, height, width, 3), 40, np.uint8)
    for k in range(frames):
        x, y = 20 + dx * k, 20 + dy * k
        made[k, y : y + 24, x : x + 24] = texture
    return made


def row(workspace, signal, data, **more):
    """What the step is handed of a take."""
    kept = workspace.put(data, ".mp4")
    take = {"footage": SHA, "width": 96, "height": 64, "frames": 6, "fps": 8.0, "fit": "crop"}
    take |= {"conditions": [{"kind": "control", "role": signal, "sha256": SHA}]}
    return InputRow({**take, "media": [{"sha256": SHA, "uri": kept["uri"], "name": "x"}], **more})


def made(workspace, taken, **config):
    step = Control(Control.Config(**config), workspace)
    found = step.process(taken)
    assert sorted(found) == sorted(step.writes.names)
    return found, read_frames(workspace.read(found["uri"]))


def test_lines_stand_where_the_square_ends(workspace):
    found, frames = made(workspace, row(workspace, "edges", write_video(square(), 8, crf=1)))
    assert frames.shape == (6, 64, 96, 3)
    assert set(np.unique(frames)) == {0, 255}
    for k, frame in enumerate(frames):
        left, lines = 20 + 4 * k, frame[..., 0] > 0
        assert lines[24:40, left - 1 : left + 1].any(axis=1).mean() > 0.9
        assert not lines[:, : left - 3].any()
        assert not lines[:17].any()
    assert (found["signal"], found["note"], found["n_frames"], found["fps"]) == ("edges", "", 6, 8.0)
    _, fewer = made(workspace, row(workspace, "edges", write_video(square(), 8, crf=1)), edges_low=500, edges_high=1000)
    assert 0 < (fewer > 0).sum() < (frames > 0).sum() / 2


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (-2, 0), (0, 3), (0, -2)])
def test_hue_is_the_direction_and_white_stands_still(workspace, dx, dy):
    """The wheel turns from red (right) by yellow (down) to cyan-blue (left) and magenta (up)."""
    _, frames = made(workspace, row(workspace, "flow", write_video(square(dx=dx, dy=dy), 8, crf=1)))
    assert frames.shape == (6, 64, 96, 3)
    hues = {(4, 0): (0.0, 0.1), (0, 3): (0.15, 0.35), (-2, 0): (0.5, 0.67), (0, -2): (0.73, 0.94)}
    low, high = hues[dx, dy]
    for k in range(1, 6):
        x, y = 32 + dx * (k - 1), 32 + dy * (k - 1)
        hue, saturation, _ = colorsys.rgb_to_hsv(*np.median(frames[k, y - 4 : y + 4, x - 4 : x + 4] / 255, axis=(0, 1)))
        assert saturation > 0.3
        assert low <= (hue + 0.05) % 1 <= high, hue
    assert np.median(frames[:, 2:8, -8:], axis=(0, 1, 2)).min() > 225
    np.testing.assert_array_equal(frames[0], frames[1])


def test_a_motion_has_its_full_colour_at_the_length_that_is_set():
    flow = np.zeros((1, 4, 2), np.float32)
    flow[0, :, 0] = 0, 2, 4, 8
    assert flow_colours(flow, 4.0)[0].tolist() == [[255] * 3, [255, 127, 127], [255, 0, 0], [191, 0, 0]]
    assert edges(np.full((16, 16), 9, np.uint8), 100, 200).max() == 0
    assert flow_colours(np.zeros((2, 2, 2), np.float32), 0.0).min() == 255


def test_other_shapes_and_rates_are_brought_to_those_of_the_take(workspace):
    """Twice the size and the rate: every second frame; a wide video loses its sides, and that is said."""
    fast = square(12, 2).repeat(2, 1).repeat(2, 2)
    found, frames = made(workspace, row(workspace, "edges", write_video(fast, 16, crf=1)))
    assert (frames.shape, found["note"]) == ((6, 64, 96, 3), "")
    assert (frames[5, 24:40, 39:41] > 0).any(axis=(1, 2)).mean() > 0.9
    found, _ = made(workspace, row(workspace, "edges", write_video(fast, 16, crf=1), width=64))
    assert "cut off" in found["note"]
    one, _ = made(workspace, row(workspace, "flow", write_video(square(), 8), frames=1))
    assert one["n_frames"] == 1
    with pytest.raises(BadMedia, match=r"lasts 0\.75 s, which is 6 frames at 8 fps; the clip has 9"):
        made(workspace, row(workspace, "flow", write_video(square(), 8), frames=9))


def test_what_is_not_made_of_footage_is_refused():
    conditions = [{"kind": "control", "role": "depth", "sha256": SHA}]
    with pytest.raises(
        BadInput, match="depth is not made from footage, only edges and flow are: give a `video` of depth"
    ):
        Control.check_unit(Control.Config(), {"fit": "crop", "conditions": conditions})
    for wrong in ({"edges_low": 300.0}, {"edges_high": 3000.0}, {"flow_full": -1.0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            Control.Config(**wrong)
