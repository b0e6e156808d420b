"""What rows may name and open: through the command line, with files and servers that would give away a second file."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flows.cli.main import main
from flows.render.campaign import load_campaign
from flows.run.session import existing_catalog, prepare
from flows.views.tables import read_table
from stages.core.errors import BadInput
from stages.core.media import BadMedia, read_frames, read_picture
from stages.core.reach import policy, web
from stages.core.reach.containers import DEMUXERS, NotOpened, open_container
from stages.core.reach.opening import read_named
from tests.data_prep.little import shot, write
from tests.reach.servers import site


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the operator's file and names it in the environment."""

    def write_rules(**rules: object) -> None:
        path = tmp_path / "reach.yaml"
        path.write_text(json.dumps(rules))
        monkeypatch.setenv(policy.VARIABLE, str(path))

    return write_rules


def png(level: int = 9) -> bytes:
    import io

    data = io.BytesIO()
    Image.fromarray(np.full((48, 96, 3), level, np.uint8)).save(data, "PNG")
    return data.getvalue()


def dry_run(campaign: Path, store: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["render", str(campaign), "--store", str(store), "--dry-run"])
    return result.exit_code, result.output


def written(folder: Path, *pictures: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "film.yaml"
    entries = [{"prompt": f"take {i}", "image": picture} for i, picture in enumerate(pictures)]
    path.write_text(json.dumps({"name": "film", "prompts": entries}))
    return path


def test_prompts_open_what_lies_below_their_campaign_and_what_is_allowed(tmp_path: Path, operator) -> None:
    """Each picture that a prompt may not name is refused in a sentence, and no host hears of it."""
    secret, folder = tmp_path / "outside" / "secret.png", tmp_path / "film"
    secret.parent.mkdir()
    secret.write_bytes(png())
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "own.png").write_bytes(png())
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    with (
        site({"/a.png": png(1), "/b.png": png(2)}) as inner,
        site({"/c.png": png(3)}, {"/on.png": inner.url("/a.png"), "/file.png": "file:///etc/passwd"}) as outer,
    ):
        operator(private_hosts=[outer.host], hosts=["localhost"])
        port = inner.host.rpartition(":")[2]
        refused = {
            str(secret): "lies outside",
            "../outside/secret.png": "lies outside",
            "link.png": "lies outside",
            "linked/secret.png": "lies outside",
            secret.as_uri(): "lies outside",
            "in/../../outside/secret.png": "lies outside",
            inner.url("/a.png"): "the host of .* is not allowed",
            f"http://localhost:{port}/a.png": "has the private address",
            outer.url("/on.png"): "the host of .* is not allowed",
            outer.url("/file.png"): "is no address of http or https",
            f"simplecache::{outer.url('/c.png')}": "chain of file systems",
            f"zip://secret.png::{secret}": "chain of file systems",
            "s3://bucket/secret.png": "rows may not name s3://",
            "ftp://127.0.0.1/secret.png": "rows may not name ftp://",
            "in/gone.png": "No such file",
        }
        status, out = dry_run(written(folder, *refused), tmp_path / "store")
        assert status == 2
        # Where the machine is busy, lines of progress come first.
        lines = [line for line in out.strip().splitlines() if " s: looked at " not in line]
        assert len(lines) == 1 + len(refused), out
        import re

        for number, (line, what) in enumerate(zip(lines[1:], refused.values(), strict=True), 1):
            assert f"prompt {number}: image" in line
            assert re.search(what, line), line
        assert inner.asked == [], "no request went to a host that is not allowed"
        assert not list((tmp_path / "store").rglob("*.png"))

        operator(private_hosts=[outer.host], roots=[str(secret.parent)])
        status, out = dry_run(written(folder, "in/own.png", str(secret), outer.url("/c.png?k=1")), tmp_path / "store")
        assert status == 0, out
        loaded = load_campaign([folder / "film.yaml"], {}, [])
        assert [t["media"][0]["uri"] for t in loaded.takes][2] == outer.url("/c.png")
        prepare(loaded, str(tmp_path / "store"))
    assert len(list((tmp_path / "store").rglob("*.png"))) == 2, "equal pictures are kept once"


def test_lists_of_prompts_are_named_like_pictures_and_have_rows_of_their_own(tmp_path: Path, operator) -> None:
    operator()
    listed = tmp_path / "lists" / "prompts.csv"
    listed.parent.mkdir()
    (listed.parent / "own.png").write_bytes(png())
    listed.write_text("prompt,image\na,own.png\n")
    campaign = tmp_path / "film" / "film.yaml"
    campaign.parent.mkdir()
    campaign.write_text(json.dumps({"name": "film", "prompts_file": str(listed)}))
    with pytest.raises(BadInput, match=r"prompts\.csv lies outside of the folder"):
        load_campaign([campaign], {}, [])
    campaign.write_text("name: film\n")
    assert len(load_campaign([campaign], {}, [f"prompts_file={listed}"]).takes) == 1, "the command line is trusted"
    with pytest.raises(BadInput, match="unknown key 'roots'"):
        load_campaign([campaign], {}, ["roots=[/]"])


def test_manifests_name_what_lies_below_them_and_what_is_allowed(tmp_path: Path, operator) -> None:
    folder, secret = tmp_path / "footage", tmp_path / "secret"
    folder.mkdir()
    secret.mkdir()
    clip = write(folder / "a.mp4", shot(1, 12))
    for name in ("b.mp4", "c.mp4"):
        (secret / name).write_bytes(clip.read_bytes())
    (folder / "linked").symlink_to(secret)
    with site({"/a.mp4": clip.read_bytes()}) as inner, site({}, {"/on.mp4": inner.url("/a.mp4")}) as outer:
        operator(private_hosts=[outer.host])
        rows = {
            "a.mp4": "",
            str(secret / "b.mp4"): "lies outside",
            (secret / "c.mp4").as_uri(): "lies outside",
            "linked/b.mp4": "lies outside",
            "../secret/c.mp4": "leads out",
            inner.url("/a.mp4"): "is not allowed",
            outer.url("/on.mp4"): "is not allowed",
            f"simplecache::{inner.url('/a.mp4')}": "chain",
            "memory://x/a.mp4": "rows may not name memory://",
        }
        (folder / "m.csv").write_text("uri\n" + "".join(f"{row}\n" for row in rows))
        words = ["curate", folder / "m.csv", "--store", tmp_path / "s", "--executor", "local", "--until", "ingest"]
        result = CliRunner().invoke(main, [str(w) for w in words])
        assert result.exit_code == 0, result.output
        assert inner.asked == []
        found = read_table(existing_catalog(str(tmp_path / "s")), "sources").to_pylist()
        errors = sorted((r["error"] or "") for r in found)
        assert [r["uri"] for r in found if r["status"] == "ok"] == [str(clip)]
        assert len(found) == len(rows)
        for what in rows.values():
            assert any(what in error for error in errors), (what, errors)
        operator(roots=[str(secret)], private_hosts=[inner.host])
        (folder / "m.csv").write_text(f"uri\n{secret / 'b.mp4'}\n{inner.url('/a.mp4?sig=1')}\n")
        CliRunner().invoke(main, [str(w) for w in words])
        found = read_table(existing_catalog(str(tmp_path / "s")), "sources").to_pylist()
        assert {r["status"] for r in found} <= {"ok", "skipped"}, found


def test_a_name_whose_address_is_private_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that is looked at is the one that is spoken to: a name cannot lead elsewhere the second time."""
    numbers = iter(["127.0.0.1", "93.184.216.34"])

    def looked_up(host: str, port: object, **more: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(numbers), port))]

    rules = policy.Reach(hosts={"films.example"})
    monkeypatch.setattr(policy, "_in_force", rules)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    with (
        pytest.raises(web.Refused, match="has the private address"),
        web.answer("http://films.example/a"),
    ):
        pass
    import httpx

    request = web._request(httpx.Client(), rules, "GET", "https://films.example:8443/a?b=1")
    assert str(request.url) == "https://93.184.216.34:8443/a?b=1"
    assert request.headers["host"] == "films.example:8443"
    assert request.extensions["sni_hostname"] == "films.example"


@pytest.mark.parametrize(
    ("number", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
        ("fe80::1", False), ("fd00::1", False), ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_public_addresses(number: str, public: bool) -> None:
    assert web.is_public(number) is public


def test_hosts_are_matched_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = policy.Reach(hosts={"cdn.example.com", "*.films.org", "one.example:8443"})

    def allowed(url: str) -> bool:
        return rules.refusal(url) == ""

    assert allowed("https://cdn.example.com/a")
    assert allowed("https://CDN.example.com:444/a")
    assert allowed("https://a.films.org/x")
    assert allowed("https://one.example:8443/a")
    for url in (
        "https://cdn.example.com.evil.org/a", "https://evilfilms.org/a", "https://one.example/a", "https://films.org/a",
        "https://cdn.example.com@evil.org/a", "https://evil.org/?cdn.example.com", "https://cdn.example.com/../a",
    ):  # fmt: skip
        assert not allowed(url), url


# -- files that name others --------------------------------------------------------------------------------------------


def _naming(folder: Path, second: Path) -> dict[str, bytes]:
    """Files that would pull in a second one, by name."""
    picture, name = second.with_suffix(".png"), second.name
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(folder / "img001.png")
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(picture)
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"'
        ' minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
        'contentType="video" mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.42c00d" width="64" '
        f'height="64"><BaseURL>{name}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    imf = f'<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{name}</Id>'
    return {
        "list.m3u8": hls.format(name).encode(),
        "whole.m3u8": hls.format(second).encode(),
        "web.m3u8": hls.format("http://127.0.0.1:9/a.ts").encode(),
        "as_film.mp4": hls.format(name).encode(),
        "concat.ffconcat": f"ffconcat version 1.0\nfile '{name}'\n".encode(),
        "concat.txt": f"ffconcat version 1.0\nfile {second}\n".encode(),
        "manifest.mpd": dash.encode(),
        "stream.sdp": sdp.encode(),
        "package.xml": imf.encode(),
        "img%03d.png": b"no picture",
        "img*.png": b"no picture",
        "subs.idx": b"# VobSub index file, v7\nsize: 720x480\nid: en, index: 0\ntimestamp: 00:00:01:101, filepos: 0\n",
        "subs.sub": second.read_bytes(),
        "concat:a.mp4|" + name: b"none",
        "script.avs": f'AVISource("{second}")'.encode(),
        "graph.lavfi": f"movie={second}".encode(),
    }


def test_no_file_pulls_in_another_one(tmp_path: Path) -> None:
    """Each file that names a second one is refused, or is read as if the second one were not there."""
    second = write(tmp_path / "second.ts", [np.full((64, 64, 3), 200, np.uint8)] * 12)
    made = _naming(tmp_path, second)
    for name, data in made.items():
        path = tmp_path / name
        path.write_bytes(data)
        if name == "subs.sub":
            continue
        with pytest.raises((NotOpened, av.FFmpegError)) as refused, open_container(path) as container:
            list(container.decode(video=0))
        assert str(refused.value), name
        with pytest.raises(BadMedia):
            read_frames(path)
        with pytest.raises(BadMedia):
            read_frames(data)


def test_plain_libav_would_have_pulled_it_in(tmp_path: Path) -> None:
    """The files of the test above are real ones: without rules the second file's picture comes out."""
    second = write(tmp_path / "second.ts", [np.full((64, 64, 3), 200, np.uint8)] * 12)
    made = _naming(tmp_path, second)
    for name in ("list.m3u8", "concat.ffconcat", "img%03d.png"):
        (tmp_path / name).write_bytes(made[name])
        with av.open(str(tmp_path / name)) as container:
            assert next(container.decode(video=0)).to_ndarray(format="rgb24").mean() > 190, name


def test_formats_that_name_other_files_are_none_of_those_that_are_opened() -> None:
    assert not {
        "hls", "dash", "concat", "image2", "imf", "sdp", "rtsp", "rtp", "vobsub", "lavfi", "applehttp", "tty", "txd",
        "webm_dash_manifest", "alias_pix", "avs", "svg_pipe", "data", "rawvideo", "s337m",
    } & set(DEMUXERS)  # fmt: skip
    assert set(DEMUXERS) - {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"} <= {*av.formats_available, "webp"}


def test_pictures_start_no_program_and_read_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for data in (eps, b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'):
        with pytest.raises(BadMedia, match="of no known format"):
            read_picture(data, 8, 8)


def test_a_link_that_never_ends_and_a_file_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.core.reach.opening.MOST_BYTES", 10)
    with site({"/big.png": b"x" * 100}, {"/round.png": "/round.png"}) as here:
        monkeypatch.setattr(policy, "_in_force", policy.Reach(private_hosts={here.host}))
        with pytest.raises(web.Refused, match="leads on more than 5 times"):
            read_named(here.url("/round.png"))
        with pytest.raises(BadInput, match="has more than"):
            read_named(here.url("/big.png"))
        with pytest.raises(OSError, match="status 404"):
            read_named(here.url("/none.png"))


def test_what_an_operators_file_says_wrongly_is_told(operator) -> None:
    operator(host=["a"])
    with pytest.raises(BadInput, match="unknown key 'host'; did you mean 'hosts'"):
        policy.operators()
    operator(hosts="a")
    with pytest.raises(BadInput, match="hosts must be a list of texts"):
        policy.operators()
    operator(endpoints=["a"])
    with pytest.raises(BadInput, match="endpoints must map"):
        policy.operators()
