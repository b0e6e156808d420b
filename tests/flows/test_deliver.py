"""`deliver`: every format is what it says, names stay in the folder and apart, and the manifest tells what is there."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.render.delivery import DeliverConfig, Delivery, check_delivery
from flows.render.export import check_export, export, export_name, exported_text
from flows.render.manifest import MANIFEST
from flows.render.provenance import GENERATED, INDEX, identify, read_index
from stages.core import formats
from stages.core.errors import BadInput
from stages.core.formats import FORMATS
from stages.core.identity import digest
from stages.core.ledger.storage import Storage
from stages.core.media import read_frames, read_tags, write_video
from stages.core.picture_tags import read_picture_tags
from stages.core.sound import Sound
from stages.core.step import Row

FRAMES, HEIGHT, WIDTH, FPS = 12, 48, 64, 16
COLOURS = [(212, 25, 45), (30, 158, 56), (36, 64, 214), (236, 230, 50)]
CODECS = {"mp4-h264": "h264", "mp4-hevc": "hevc", "webm-vp9": "vp9", "webm-av1": "av1", "prores": "prores"}
ABOUT = {"settings": {"base": {"width": 64}}}


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    return Storage(str(tmp_path_factory.mktemp("deliver") / "store"))


def picture(number: int) -> np.ndarray:
    """Four squares of one colour each, and a black line that moves."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        y, x = divmod(i, 2)
        frame[y * 24 : y * 24 + 24, x * 32 : x * 32 + 32] = colour
    frame[:, 2 * number : 2 * number + 2] = 0
    return frame


def made(storage: Storage, prompt: str = "a star", seed: int = 0, heard: bool = True) -> Row:
    """The row of a stored video with sound."""
    frames = np.stack([picture(i + seed) for i in range(FRAMES)])
    wave = np.sin(np.arange(16000 * FRAMES // FPS) / 8, dtype=np.float32)[None]
    video = write_video(frames, FPS, crf=4, preset="ultrafast", sound=Sound(wave, 16000) if heard else None)
    kept, take = storage.put_media(video, ".mp4"), digest("take", prompt, seed)
    return {
        **{"take_id": take, "video_id": digest(take, kept["sha256"]), "prompt": prompt, "negative_prompt": "dull"},
        **{"seed": seed, "uri": kept["uri"], "sha256": kept["sha256"], "width": WIDTH, "height": HEIGHT},
        **{"n_frames": FRAMES, "fps": float(FPS), "status": "ok", "error": "", "campaign": "c"},
    }


def take_of(video: Row, position: int = 0, tags: tuple[str, ...] = ()) -> Row:
    return {
        **{"id": video["take_id"], "prompt": video["prompt"], "negative_prompt": "dull", "seed": video["seed"]},
        **{"campaign": "c", "position": position, "tags": list(tags), "guidance": 3.0},
    }


def delivered(storage: Storage, videos: list[Row], folder: Path, **settings) -> list[Path]:
    config = DeliverConfig(**settings)
    takes = tuple(take_of(v, i, ("hero", "wide")) for i, v in enumerate(videos))
    delivery = Delivery(config, takes, {"model": "tiny", "cascade": "plain"})
    return export(storage, videos, folder, metadata=config.metadata, about=ABOUT, delivery=delivery)


def pixels(path: Path) -> np.ndarray:
    """The frames [F, H, W, 3] of a file of any format."""
    from PIL import Image, ImageSequence

    if path.is_dir():
        return np.stack([np.array(Image.open(p).convert("RGB")) for p in sorted(path.iterdir())])
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as found:
            return np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(found)])
    return read_frames(path)


def said_by(path: Path) -> dict:
    first = min(path.iterdir()) if path.is_dir() else path
    read = read_picture_tags if first.suffix in (".png", ".gif", ".webp") else read_tags
    return json.loads(read(first)["comment"])


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_keeps_size_frames_colours_and_says_what_it_is(name, storage, tmp_path):
    video = made(storage, "a star; ü\n# second line")
    (path,) = delivered(storage, [video], tmp_path / "out", format=name)
    assert path.suffix == FORMATS[name].suffix
    shown = pixels(path)
    assert shown.shape == (FRAMES, HEIGHT, WIDTH, 3)
    for colour, (y, x) in zip(COLOURS, ((12, 28), (12, 56), (40, 28), (40, 56)), strict=True):
        assert np.abs(shown[0, y, x].astype(int) - colour).max() <= 8, (colour, shown[0, y, x])
    assert (shown[3, 12, 7] < 60).all(), "the line has moved"
    assert (shown[3, 12, 1] > 10).any()
    said = said_by(path)
    assert {k: said[k] for k in GENERATED} == GENERATED
    assert (said["prompt"], said["seed"], said["settings"]) == (video["prompt"], 0, ABOUT["settings"])
    (again,) = delivered(storage, [video], tmp_path / "again", format=name)
    assert {p.name: p.read_bytes() for p in files(path)} == {p.name: p.read_bytes() for p in files(again)}
    entry = read_index(tmp_path / "out")[path.name]
    assert (entry["width"], entry["height"], entry["frames"], entry["fps"]) == (WIDTH, HEIGHT, FRAMES, FPS)
    if name in CODECS:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.codec.canonical_name == CODECS[name]
            assert float(stream.average_rate) == FPS
            colours = stream.codec_context
            assert (colours.colorspace, colours.color_primaries, colours.color_trc, colours.color_range) == (1, 1, 1, 1)
            (sound,) = container.streams.audio
            loud = np.concatenate([f.to_ndarray().ravel() for f in container.decode(sound)]).astype(np.float64)
            assert loud.std() > 0.3 * np.abs(loud).max(), "it is heard"
    lost = "; 1 video lost the sound, which this format cannot hold"
    assert (lost in exported_text(tmp_path / "out", [path])) == (name not in CODECS)
    assert entry["sound"] == ("kept" if name in CODECS else "lost")


def files(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


@pytest.mark.parametrize("metadata", ["id", "none"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_copy_of_any_format_is_known(name, metadata, storage, tmp_path):
    video = made(storage)
    (path,) = delivered(storage, [video], tmp_path / "out", format=name, metadata=metadata)
    (tmp_path / "out" / INDEX).unlink()
    for file in {path, files(path)[0]}:
        found = identify(file, storage)
        assert found is not None
        assert (found.take_id, found.artifact_id) == (video["take_id"], video["video_id"])
        assert found.by == ("hash" if metadata == "none" else "metadata")


@pytest.mark.parametrize("name", ["mp4-h264", "webm-vp9", "png", "gif", "webp"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_size_rate_and_fit(name, fit, storage, tmp_path):
    video = made(storage, seed=6)  # no line lies in what is cut off, since WebP shows equal frames as one
    (path,) = delivered(storage, [video], tmp_path / "out", format=name, width=48, height=48, fps=8, fit=fit)
    shown = pixels(path)
    assert shown.shape == (FRAMES // 2, 48, 48, 3)
    entry = read_index(tmp_path / "out")[path.name]
    assert (entry["width"], entry["height"], entry["frames"], entry["fps"]) == (48, 48, FRAMES // 2, 8)
    corner = shown[0, 1, 40].astype(int)  # green, unless a bar lies there
    assert np.abs(corner - (0 if fit == "pad" else COLOURS[1])).max() <= 16
    red = (np.abs(shown[0, 12].astype(int) - COLOURS[0]).max(axis=1) <= 24).sum()
    assert red == pytest.approx({"crop": 24 - 2, "pad": 24 - 2, "stretch": 24 - 2}[fit], abs=6)
    (other,) = delivered(storage, [made(storage)], tmp_path / "wide", format=name, width=32)
    assert pixels(other).shape == (FRAMES, 24, 32, 3)


def test_an_mp4_that_changes_nothing_is_copied_and_a_crf_encodes_it(storage, tmp_path):
    video = made(storage)
    (same,) = delivered(storage, [video], tmp_path / "a")
    (small,) = delivered(storage, [video], tmp_path / "b", crf=40)
    with av.open(io.BytesIO(storage.read(video["uri"]))) as stored, av.open(str(same)) as copied:
        assert [bytes(p) for p in stored.demux(video=0)] == [bytes(p) for p in copied.demux(video=0)]
    assert small.stat().st_size < same.stat().st_size
    (again,) = delivered(storage, [video], tmp_path / "a", crf=40)
    assert again.read_bytes() == small.read_bytes(), "other settings make the file again"


def test_a_folder_of_frames_is_replaced_and_never_mixed_with_files_of_others(storage, tmp_path):
    video = made(storage)
    (path,) = delivered(storage, [video], tmp_path, format="png")
    first = (path / "000001.png").stat().st_mtime_ns
    delivered(storage, [video], tmp_path, format="png")
    assert (path / "000001.png").stat().st_mtime_ns == first, "what is there stays"
    delivered(storage, [video], tmp_path, format="png", fps=4)
    assert len(list(path.iterdir())) == FRAMES // 4
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
    (path / "mine.png").write_bytes(b"mine")
    with pytest.raises(BadInput, match="which Rushes did not write, or which was changed since"):
        delivered(storage, [video], tmp_path, format="png")
    assert (path / "mine.png").read_bytes() == b"mine"


def test_a_gif_that_is_too_fast_is_said_and_stops_no_other(storage, tmp_path):
    fast = {**made(storage), "fps": 60.0}
    with pytest.raises(BadInput, match=r"fps is 60, and a GIF shows at most 50; give deliver\.fps=50 or less"):
        delivered(storage, [fast, made(storage, "a moon")], tmp_path, format="gif")
    assert [p.name for p in tmp_path.glob("*.gif")] == [export_name(made(storage, "a moon"), ".gif")]


# -- what is refused before any work -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "mp4"}, "deliver.format is 'mp4'; give mp4-h264 or mp4-hevc"),
        ({"format": "png", "crf": 3}, "deliver.crf is 3, and png has no such setting; leave it out"),
        ({"format": "webm-vp9", "crf": 64}, r"deliver.crf is 64; webm-vp9 takes 0 \(best\) to 63"),
        ({"width": 33}, "deliver.width is 33; mp4-h264 takes even sizes only, such as 34"),
        ({"height": 0}, "deliver.height is 0; give 2 to 16384 pixels"),
        ({"fps": 0}, "deliver.fps is 0; give a number over 0"),
        ({"fps": 60, "format": "gif"}, "deliver.fps is 60, and a GIF shows at most 50"),
        ({"fit": "fill"}, "deliver.fit is 'fill'; it must be one of crop, pad, stretch"),
        ({"metadata": "all"}, "metadata of exported videos is 'all'"),
        ({"manifest": ["xlsx"]}, "deliver.manifest has 'xlsx'; known: csv, jsonl, parquet"),
        ({"name": "{promt}"}, "deliver.name has the unknown field 'promt'; known: campaign, position, seed, prompt"),
        ({"name": "{prompt.upper}"}, "unknown field 'prompt.upper'"),
        ({"name": "{tags[0]}"}, r"unknown field 'tags\[0\]'"),
        ({"name": "{}"}, "unknown field ''"),
        ({"name": "{seed!r}"}, "takes a width such as"),
        ({"name": "{seed:{seed}}"}, "takes a width such as"),
        ({"name": "{prompt:04d}"}, "cannot be written: Unknown format code"),
        ({"name": "{seed:0999999}"}, "has 999999 characters; at most 200 fit"),
        ({"name": "{seed"}, "its braces do not fit"),
        ({"name": "../{seed}"}, "it must stay in the folder"),
        ({"name": "/tmp/{seed}"}, "it must stay in the folder"),
        ({"name": "a//{seed}"}, "it must stay in the folder"),
        ({"name": "~/{seed}"}, "it must stay in the folder"),
        ({"name": "a:{seed}"}, "':' cannot be in the name of a file everywhere"),
    ],
)
def test_what_cannot_be_delivered_is_refused_before_work(settings, said):
    with pytest.raises(BadInput, match=said):
        check_delivery(DeliverConfig(**settings))


def test_ffmpeg_is_asked_whether_it_has_the_encoder(monkeypatch):
    real = formats.written_by
    monkeypatch.setattr(formats, "written_by", lambda binary, what: real(binary, what) - {"libx265", "libopus", "gif"})
    check_delivery(DeliverConfig())
    for name, missing in (("mp4-hevc", "libx265"), ("webm-vp9", "libopus"), ("gif", "gif")):
        with pytest.raises(BadInput, match=f"deliver.format is '{name}', and the ffmpeg in use .* has no {missing}"):
            check_delivery(DeliverConfig(format=name))


def test_of_a_campaign_file_it_is_refused_on_the_command_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"prompts": ["x"], "deliver": {"format": "webm-vp9", "name": "{sed}"}}))
    result = CliRunner().invoke(main, ["render", str(path), "--store", str(tmp_path / "s")])
    assert result.exit_code == 2
    assert "deliver.name has the unknown field 'sed'" in result.output
    assert not (tmp_path / "s").exists()


# -- names -------------------------------------------------------------------------------------------------------------


def names(storage: Storage, prompts: list[str], folder: Path, template: str) -> list[str]:
    videos = [made(storage, p, i, heard=False) for i, p in enumerate(prompts)]
    return [p.relative_to(folder).as_posix() for p in delivered(storage, videos, folder, name=template)]


def test_a_template_names_files_in_folders(storage, tmp_path):
    found = names(storage, ["a star", "Ein Stern, größer!"], tmp_path, "{campaign}/{position:04}-{seed}-{prompt}")
    assert found == ["c/0001-0-a-star.mp4", "c/0002-1-Ein-Stern,-größer.mp4"]
    assert all((tmp_path / name).is_file() for name in found)
    again = identify(tmp_path / found[0])
    assert again is not None
    assert again.take_id == digest("take", "a star", 0)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("..", "none"),
        ("/", "none"),
        ('a\\b:c*d?"<>|', "a-b-c-d"),
        ("CON", "CON_"),
        ("nul.txt", "nul.txt_"),
        ("\u202egnp.exe", "gnp.exe"),
        ("x" * 300, "x" * 60),
        ("字" * 300, "字" * 60),
    ],
)
def test_what_a_prompt_says_is_a_safe_name(prompt, name, storage, tmp_path):
    assert names(storage, [prompt], tmp_path / "out", "{prompt}") == [f"{name}.mp4"]
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_equal_names_are_numbered_whatever_case_and_stay_with_their_takes(storage, tmp_path):
    prompts = ["a star", "A STAR", "a star!"]
    found = names(storage, prompts, tmp_path, "{prompt}")
    assert found == ["a-star.mp4", "A-STAR-2.mp4", "a-star-3.mp4"]
    assert names(storage, prompts, tmp_path, "{prompt}") == found
    videos = [made(storage, p, i, heard=False) for i, p in enumerate(prompts)]
    assert [identify(tmp_path / n).take_id for n in found] == [v["take_id"] for v in videos]  # type: ignore[union-attr]
    # Another take that would have the name of a file that is there does not replace it.
    other = made(storage, "a star", 7, heard=False)
    (path,) = delivered(storage, [other], tmp_path, name="{prompt}")
    assert path.name == "a-star-4.mp4"


def test_numbered_names_are_said_with_the_takes(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"prompts": ["a star"], "seeds": 3, "deliver": {"name": "{prompt}"}}))
    (remark,) = load_campaign([path], {}, []).remarks
    assert remark.startswith("deliver.name gives 3 takes a name that others have, such as 'a-star': they are numbered")
    assert load_campaign([path], {}, ['deliver.name="{prompt}-{seed}"']).remarks == ()


def test_a_link_that_leads_out_of_the_folder_is_refused(storage, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="holds 'c', which Rushes did not write"):
        names(storage, ["a star"], tmp_path / "out", "{campaign}/{seed}")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_no_name_is_that_of_the_index(storage, tmp_path):
    (path,) = delivered(storage, [made(storage, heard=False)], tmp_path, name="rushes.json", format="png")
    assert path.name == "rushes.json-2"


# -- the manifest ------------------------------------------------------------------------------------------------------


def test_the_manifest_is_the_same_in_all_three_forms_and_grows(storage, tmp_path):
    videos = [made(storage, "=1+1, a star", 0), made(storage, "a moon", 1)]
    paths = delivered(storage, videos[:1], tmp_path, format="webm-vp9", width=32)
    paths += delivered(storage, videos[1:], tmp_path, format="gif", fps=8)
    table = pq.read_table(tmp_path / "rushes.parquet")
    assert table.schema == MANIFEST
    rows = {row["file"]: row for row in table.to_pylist()}
    lines = [json.loads(line) for line in (tmp_path / "rushes.jsonl").read_text().splitlines()]
    assert lines == table.to_pylist()
    cells = list(csv.DictReader((tmp_path / "rushes.csv").open(newline="")))
    assert [c["file"] for c in cells] == list(rows)
    first, second = rows[paths[0].name], rows[paths[1].name]
    assert (first["width"], first["height"], first["frames"], first["fps"]) == (32, 24, FRAMES, FPS)
    assert (second["width"], second["height"], second["frames"], second["fps"]) == (WIDTH, HEIGHT, FRAMES // 2, 8)
    assert (first["sound"], second["sound"]) == ("kept", "lost")
    assert first["take_id"] == videos[0]["take_id"]
    assert first["artifact_id"] == videos[0]["video_id"]
    assert (first["tags"], first["model"], first["cascade"]) == (["hero", "wide"], "tiny", "plain")
    by_file = {c["file"]: c for c in cells}
    assert by_file[paths[0].name]["prompt"] == "'=1+1, a star", "no formula"
    assert by_file[paths[0].name]["tags"] == "hero, wide"
    assert first["bytes"] == paths[0].stat().st_size
    for row, path in ((first, paths[0]), (second, paths[1])):
        found = identify(path, storage)
        assert found is not None
        assert found.take_id == row["take_id"]
    assert str(storage.url) not in (tmp_path / "rushes.jsonl").read_text()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    delivered(storage, videos[1:], tmp_path, format="gif", fps=8)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before, "the same again changes nothing"
    paths[0].unlink()
    delivered(storage, videos[1:], tmp_path, format="gif", fps=8)
    assert [row["file"] for row in pq.read_table(tmp_path / "rushes.parquet").to_pylist()] == [paths[1].name]


def test_a_manifest_of_somebody_else_is_not_written_over(storage, tmp_path):
    (tmp_path / "rushes.csv").write_text("mine")
    takes = [take_of(made(storage))]
    with pytest.raises(BadInput, match=r"holds 'rushes\.csv', which Rushes did not write"):
        check_export(tmp_path, takes, storage, delivery=Delivery(DeliverConfig(), takes))
    check_export(tmp_path, takes, storage, delivery=Delivery(DeliverConfig(manifest=["jsonl"]), takes))


# -- the command line --------------------------------------------------------------------------------------------------


def test_a_campaign_delivers_what_it_says_and_status_finds_it(campaign_file, tmp_path):
    store, out = tmp_path / "store", tmp_path / "out"
    path = tmp_path / "c.yaml"
    said = yaml.safe_load(Path(campaign_file).read_text())
    said |= {"prompts": said["prompts"][:1], "seeds": 1, "tags": "hero"}
    said["deliver"] = {"format": "webm-vp9", "width": 64, "fps": 8, "name": "{campaign}/{position:03}-{prompt}"}
    path.write_text(yaml.safe_dump(said))
    result = CliRunner().invoke(
        main, ["render", str(path), "--store", str(store), "--executor", "local", "--export", str(out)]
    )
    assert result.exit_code == 0, result.output
    file = out / "small" / "001-a-red-circle-moving-left.webm"
    (row,) = pq.read_table(out / "rushes.parquet").to_pylist()
    assert (row["file"], row["model"], row["cascade"], row["tags"]) == (
        *("small/001-a-red-circle-moving-left.webm", "tiny", "tiny"),
        ["hero"],
    )
    file.rename(tmp_path / "other.webm")
    shown = CliRunner().invoke(main, ["status", "--store", str(store), str(tmp_path / "other.webm")])
    assert shown.exit_code == 0, shown.output
    assert "a red circle moving left" in shown.output
