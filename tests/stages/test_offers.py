"""What families offer, and the refusal of the rest: sizes, conditions, settings, further checkpoints."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.base import Base
from stages.core.condition_video import SLACK_S, read_clip, seconds_of
from stages.core.conditions import KINDS, Condition, prompt_key, read_conditions
from stages.core.config import make_ref
from stages.core.errors import BadInput
from stages.core.latents.artifacts import CONDITION
from stages.core.media import BadMedia, write_video
from stages.core.weights.checkpoint import ModelConfig
from stages.core.weights.digests import fingerprint, weights_identity
from stages.families.contract import Sampling, families, load_family, refuse_conditions
from stages.families.offers import Accepts, Knob, Offers, SizeRule, check_conditions
from stages.families.settings import check_sampling


@given(st.integers(1, 500), st.sampled_from([1, 4, 6, 8]), st.integers(1, 40), st.integers(0, 90))
def test_the_nearest_length_is_one_that_can_be_made(frames, step, least, most):
    rule = SizeRule(step=8, frames=step, least=least, most=max(most, least + step) if most else 0)
    try:
        rule.check("x", 64, 64, frames)
    except BadInput as refused:
        frames = int(str(refused).rsplit(" ", 1)[1])
    rule.check("x", 64, 64, frames)
    assert (frames - 1) % step == 0
    assert least <= frames <= (rule.most or frames)


def test_a_size_rule_says_what_it_asks():
    rule = SizeRule(step=16, frames=4, most=33, only=(720, 480))
    with pytest.raises(BadInput, match="one size only; the nearest is 720x480"):
        rule.check("x", 720, 720, 9)
    with pytest.raises(BadInput, match=r"x cannot make 49 frames: they must be k \* 4 \+ 1, at most 33; .* is 33"):
        rule.check("x", 720, 480, 49)
    within = SizeRule(step=16, frames=4, most=49).within(32, (1, 2, 2), 8, 4)
    assert (within.largest, within.most) == (512, 49), "the lower of two limits holds"
    assert SizeRule(step=16, frames=4).within(32, (1, 2, 2), 8, 4).most == 125
    with pytest.raises(BadInput, match=r"832x480: .* multiples of 16, at most 512; the nearest is 512x480"):
        within.check("x", 832, 480, 49)
    assert SizeRule(step=16).within(0, (1, 2, 2), 8, 4) == SizeRule(step=16), "a config may say none"


OFFERS = Offers(
    size=SizeRule(step=8),
    parts={},
    accepts={
        "still": Accepts(roles=("first", "last"), least=1, most=2, heeds=("scale",)),
        "control": Accepts(roles=("edges",), alone=("source",)),
        "source": Accepts(heeds=("level",), must=("level",)),
        "clip": Accepts(beside=("source",)),
    },
    knobs={"motion": Knob(default=127, low=0, high=255, help="", whole=True)},
    schedulers=("DDIMScheduler", "EulerDiscreteScheduler"),
)
FIRST, LAST = Condition(kind="still", role="first"), Condition(kind="still", role="last")


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([], "x needs a picture: give `image`"),
        ([LAST], "needs a first frame beside the last one"),
        ([FIRST, replace(LAST, role="keyframe")], "takes `image` or `last_image`, not `keyframes`"),
        ([FIRST, LAST, FIRST], "at most 2 of `image` and `last_image` together, not 3"),
        ([FIRST, FIRST], "`image` and `image` both name frame 0"),
        ([FIRST, replace(LAST, start=0.5)], "does not use the start of `last_image`"),
        ([FIRST, replace(FIRST, frame=99)], "`image` names frame 99, and a clip of 9 frames has 0 to 8"),
        ([FIRST, Condition(kind="control", role="pose")], "`control` with the signal edges, not pose"),
        (
            [FIRST, Condition(kind="control", role="edges"), Condition(kind="source", level=0.5)],
            "`control` or `video`, not both",
        ),
        ([FIRST, Condition(kind="camera")], "x takes no `camera`; no family here does"),
        ([FIRST, Condition(kind="sound")], "x takes no `sound`; these do: y"),
        ([FIRST, Condition(kind="source")], "needs a level for `video`: give `level`"),
        ([FIRST, Condition(kind="source", level=1.0)], "level of `video` is 1; it must be above 0 and below 1"),
        ([FIRST, Condition(kind="clip")], "takes `clip` only together with `video`"),
    ],
)
def test_conditions_that_are_not_taken_are_named(conditions, said):
    with pytest.raises(BadInput, match=said):
        check_conditions("x", OFFERS, conditions, 9, {"sound": "y"})
    check_conditions("x", OFFERS, [FIRST, replace(LAST, scale=0.5), Condition(kind="source", level=0.5)], 9, {})
    with pytest.raises(BadInput, match="x needs one of `control`"):
        check_conditions("x", replace(OFFERS, asks=("control",)), [FIRST], 9, {})


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"timesteps": (5.0, 1.0)}, "s.timesteps: x does not use it"),
        ({"knobs": {"motoin": 3}}, "did you mean 'motion'"),
        ({"knobs": {"motion": 300}}, "a whole number from 0 to 255, not 300"),
        ({"knobs": {"motion": 1.5}}, "a whole number"),
        ({"scheduler": {"name": "DDIMSchedular"}}, "did you mean 'DDIMScheduler'"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(sampling, said):
    with pytest.raises(BadInput, match=said):
        check_sampling("s", "x", OFFERS, Sampling(**sampling))
    check_sampling("s", "x", OFFERS, Sampling(knobs={"motion": 3}, scheduler={"name": "DDIMScheduler"}))
    with pytest.raises(BadInput, match="samples with the checkpoint's own"):
        check_sampling("s", "x", replace(OFFERS, schedulers=()), Sampling(scheduler={"name": "DDIMScheduler"}))


def test_every_family_says_which_conditions_it_takes_and_the_rest_is_refused_by_name(model):
    ltx = load_family("ltx")
    for name in families():
        assert set(load_family(name).kinds) <= set(KINDS)
    for kind in set(KINDS) - set(ltx.kinds):
        takers = [n for n in families() if kind in load_family(n).kinds]
        with pytest.raises(
            BadInput, match=f"ltx takes no `{prompt_key(kind)}`; " + ("these do" if takers else "no family")
        ):
            refuse_conditions(ltx, ltx.offers(model), [Condition(kind=kind)], 9)
    with pytest.raises(BadInput, match="ltx has no part 'controlnet'; it takes none"):
        ltx.offers(replace(model, parts={"controlnet": "x"}))


def test_a_condition_has_the_fields_of_its_column():
    (found,) = read_conditions([{"kind": "still", "role": "first", "sha256": "a", "frame": 0}])
    assert found == Condition(kind="still", role="first", sha256="a", frame=0)
    assert {f.name for f in CONDITION} == set(vars(found))
    assert read_conditions(None) == ()


class Further(Base):
    """A step that loads a further checkpoint."""

    @classmethod
    def weights_of(cls, config):
        return {"model.checkpoint": ("vae",), "model.parts.extra": ()}


def test_identity_covers_further_checkpoints_by_content_and_settings_only_where_set(model, tmp_path: Path):
    def ref(**more):
        parts = {"model": {"checkpoint": model.checkpoint, **more.pop("model", {})}}
        return make_ref("base", {"use": "tests.stages.test_offers:Further", **parts, **more})

    marks = []
    for folder, content in (("a", b"12345678"), ("b", b"12345678"), ("c", b"87654321")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(content)
        marks.append(fingerprint(ref(model={"parts": {"extra": str(tmp_path / folder)}})))
    assert marks[0] == marks[1] != marks[2]
    hub = weights_identity(ref(model={"parts": {"extra": "owner/name@abc"}}))
    assert hub["model.parts.extra"] == "hub:owner/name@abc"
    plain, knob = fingerprint(ref()), fingerprint(ref(sampling={"knobs": {"motion": 1}}))
    assert plain == fingerprint(ref(sampling={"knobs": {}, "scheduler": {}})) != knob


@settings(max_examples=12)
@given(st.integers(2, 20), st.sampled_from([4.0, 8.0, 12.0, 24.0]), st.sampled_from([4.0, 8.0, 24.0]))
def test_a_clip_of_a_video_shows_what_the_video_shows_at_its_moments(count, rate, fps):
    frames = np.stack([np.full((16, 32, 3), 10 * i + 20, np.uint8) for i in range(count)])
    data = write_video(frames, rate, crf=0)
    wanted = [int(i / fps * rate + 1e-6) for i in range(200) if i / fps * rate < count - 1e-3]
    found, size = read_clip(data, 16, 16, "crop", len(wanted), fps)
    assert size == (32, 16)
    shown = (found.astype(float).mean(axis=(1, 2, 3)) - 20) / 10
    assert found.shape == (len(wanted), 16, 16, 3)
    np.testing.assert_allclose(shown, wanted, atol=0.4)
    # What a campaign checks before any work says the same as the reading does.
    assert (len(wanted) - 1) / fps < seconds_of(data) - SLACK_S <= len(wanted) / fps
    with pytest.raises(BadMedia, match=rf"is {len(wanted)} frames at {fps:g} fps; the clip has {len(wanted) + 1}"):
        read_clip(data, 16, 16, "crop", len(wanted) + 1, fps)


def test_a_last_frame_that_stays_is_shown_as_long_as_its_file_says():
    """Four frames, an eighth of a second apart, the last of which stays for 14 eighths."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        packets = []
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 60 * i, np.uint8), format="rgb24")
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            packet.duration = 14 if packet is packets[-1] else 1
            container.mux(packet)
    data = buffer.getvalue()
    count = round(seconds_of(data) * 8)
    frames, _ = read_clip(data, 16, 16, "crop", count, 8.0)
    assert count > 4
    assert np.abs(frames[3:].astype(int) - frames[3]).max() == 0
    with pytest.raises(BadMedia):
        read_clip(data, 16, 16, "crop", count + 1, 8.0)


def test_a_refine_strength_is_a_share_of_steps_or_a_noise_level(model):
    for name in families():
        assert load_family(name).strength in ("level", "share")
    assert ModelConfig(parts={"a": "b"}).parts == {"a": "b"}
