"""`rushes review`: who is let in, what is handed out, and the campaign files that ask for more."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.render.campaign import load_campaign
from flows.render.reviews import choose, read_reviews
from flows.review.app import further
from flows.review.board import Board
from flows.review.further import campaign_text, prompt_of
from flows.review.guard import Door, host_name
from flows.review.serve import allowed_names
from flows.run.session import existing_catalog, prepare
from stages.core.errors import BadInput
from tests.flows.review_store import render, served

HOSTILE = "<img src=x onerror=alert(1)>"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("review"), [HOSTILE, {"prompt": "a star", "guidance": 3, "tags": ["x"]}], 3)


@pytest.fixture(scope="module")
def door(store: Path) -> Iterator[Door]:
    with served(store) as found:
        yield found


def ask(door: Door, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body of an answer. Headers are written with _ for -; `cookie=""` sends none."""
    sent = {"Host": f"127.0.0.1:{door.port}", "Cookie": f"{door.cookie}={door.session}"}
    sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
    data = json.dumps(body) if isinstance(body, dict) else body
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {**sent, **({"Content-Length": str(len(data))} if data is not None else {})}.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders(data.encode() if data is not None else None)
    answer = connection.getresponse()
    try:
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def takes(door: Door) -> list[dict[str, Any]]:
    return json.loads(ask(door, "/api/takes")[2])["takes"]


def write(door: Door, body: dict[str, Any], **headers: str) -> int:
    own = {"origin": f"http://127.0.0.1:{door.port}", "content_type": "application/json"}
    return ask(door, "/api/choose", "POST", body, **(own | headers))[0]


def test_the_token_is_exchanged_for_a_cookie_that_no_other_site_can_use(door):
    assert ask(door, "/", cookie="")[0] == 401
    for path in ("/", "/?token=", "/?token=wrong", "/static/review.js", "/api/takes", "/nothing"):
        status, _, body = ask(door, path, cookie="")
        assert (status, b"rushes review" in body) == (401, True), path
    assert ask(door, "/", cookie=f"{door.cookie}={door.token}")[0] == 401, "the token itself is no cookie"
    status, headers, body = ask(door, "/?token=" + door.token, cookie="")
    assert status == 200
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert door.token not in cookie
    assert door.token not in body.decode()
    assert ask(door, "/", cookie=headers["set-cookie"].partition(";")[0])[0] == 200
    assert ask(door, f"/api/takes?token={door.token}", cookie="")[0] == 401, "the token opens the page alone"


def test_the_door_is_new_every_time(store, door):
    with served(store) as other:
        assert len({other.token, other.session, door.token, door.session}) == 4
        assert ask(other, "/", cookie=f"{other.cookie}={door.session}")[0] == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8422", "127.0.0.1.evil.example", "127.0.0.1@evil.example"]
)
def test_another_name_that_leads_here_is_refused(door, host):
    assert ask(door, "/?token=" + door.token, host=host)[0] == 421
    assert ask(door, "/api/takes", host=host)[0] == 421


def test_hosts_are_compared_by_name(door):
    assert ask(door, "/", host=f"LOCALHOST:{door.port}")[0] == 200
    assert ask(door, "/", host="localhost:9999")[0] == 200, "the port of a tunnel is another one"
    assert [host_name(h) for h in ("[::1]:80", "A.b.", "a/b", "a:b", "")] == ["::1", "a.b", "", "", ""]


def test_only_the_page_itself_can_choose(store, door):
    take = takes(door)[0]["id"]
    body = {"takes": [{"id": take, "heads": []}], "choice": "approve"}
    assert write(door, body, origin="http://evil.example") == 403
    assert write(door, body, origin="null") == 403
    assert write(door, body, origin="") == 403
    assert write(door, body, origin="http://127.0.0.1:1") == 403, "another program of this machine"
    assert write(door, body, content_type="application/x-www-form-urlencoded") == 415
    assert write(door, body, content_type="text/plain") == 415
    assert write(door, body, cookie="") == 401
    assert write(door, {**body, "who": "x" * 2_000_000}) == 413
    status, headers, _ = ask(door, "/api/choose", "OPTIONS", origin="http://evil.example")
    assert status in (403, 405)
    assert not [name for name in headers if name.startswith("access-control")]
    assert read_reviews(existing_catalog(str(store))) == [], "none of these was kept"
    assert write(door, {**body, "choice": "perhaps"}) == 400
    assert write(door, {**body, "takes": [{"id": "0" * 32, "heads": []}]}) == 400
    assert write(door, {**body, "more": 1}) == 422


def test_every_answer_forbids_scripts_of_others(door):
    video = takes(door)[0]["video"]
    for path in ("/", "/static/review.js", "/api/takes", f"/media/{video}", "/nothing"):
        _, headers, _ = ask(door, path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    _, headers, body = ask(door, "/")
    page = body.decode()
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|style=|https?://", page), (
        "nothing inline, nothing from outside"
    )
    assert headers["cache-control"] == "no-store"


def test_prompts_are_data_not_markup(door):
    _, headers, body = ask(door, "/api/takes")
    assert headers["content-type"] == "application/json"
    assert HOSTILE in [t["prompt"] for t in json.loads(body)["takes"]]
    assert HOSTILE not in ask(door, "/")[2].decode()


def test_videos_come_by_the_id_of_a_shown_artifact_and_by_range(store, door):
    video = takes(door)[0]["video"]
    status, headers, whole = ask(door, f"/media/{video}")
    assert (status, headers["content-type"], headers["accept-ranges"]) == (200, "video/mp4", "bytes")
    assert whole[4:8] == b"ftyp"
    for asked, part in (("bytes=0-9", whole[:10]), ("bytes=10-", whole[10:]), ("bytes=-7", whole[-7:])):
        status, headers, found = ask(door, f"/media/{video}", range=asked)
        assert (status, found) == (206, part)
        assert headers["content-range"].endswith(f"/{len(whole)}")
    assert ask(door, f"/media/{video}", range=f"bytes={len(whole)}-")[0] == 416
    assert ask(door, f"/media/{video}", range="bytes=0-1,3-4")[0] == 200, "several parts: all of it"
    assert ask(door, f"/poster/{video}")[2][:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "path",
    [
        "/media/../store.json",
        "/media/..%2fstore.json",
        "/media/%2e%2e%2fstore.json",
        "/media/store.json",
        "/static/../review.html.j2",
        "/static/..%2fapp.py",
        "/static/%2fetc%2fpasswd",
        "/poster/" + "0" * 32,
    ],
)
def test_no_path_leads_to_another_file(door, path):
    assert ask(door, path)[0] == 404


def test_a_link_out_of_the_store_is_not_followed(tmp_path):
    store = render(tmp_path, ["a link"], 1)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    with served(store) as door:
        video = takes(door)[0]["video"]
        (file,) = store.glob("media/*/*.mp4")
        file.unlink()
        os.symlink(secret, file)
        assert ask(door, f"/media/{video}")[0] == 404
        file.unlink()
        assert ask(door, f"/media/{video}")[0] == 404


def test_names_that_may_lead_here():
    assert allowed_names("127.0.0.1", ()) == ("127.0.0.1", "localhost", "::1")
    assert allowed_names("192.168.1.5", ("Box",)) == ("box", "192.168.1.5")
    with pytest.raises(BadInput, match="--name HOST"):
        allowed_names("0.0.0.0", ())
    with pytest.raises(BadInput, match="no host name"):
        allowed_names("127.0.0.1", ("a/b",))


def test_the_board_follows_what_is_written(tmp_path):
    store = render(tmp_path, ["one"], 2)
    board = Board(existing_catalog(str(store)))
    board.keep_up()
    first = board.changes(0)
    assert [t["status"] for t in first["takes"]] == ["ok", "ok"]
    assert board.changes(first["version"])["takes"] == []
    take = first["takes"][1]["id"]
    choose(board.catalog, [take], "approve", "ada")
    render(tmp_path, ["one", "two"], 2)
    board._next = 0.0
    board.keep_up()
    new = board.changes(first["version"])
    assert [(t["prompt"], t["verdict"], t["who"]) for t in new["takes"]] == [
        ("one", "approve", "ada"),
        ("two", "", ""),
        ("two", "", ""),
    ]
    (campaign,) = board.campaigns()
    assert (campaign["takes"], campaign["done"], campaign["status"]) == (4, 4, "done")
    assert campaign["core_seconds"] > 0


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path):
    store = render(tmp_path, ["one"], 1, name="gone")
    (gone,) = store.glob("roots/*.parquet")
    render(tmp_path, ["two"], 1, name="there")
    gone.unlink()
    board = Board(existing_catalog(str(store)))
    board.keep_up()
    found = board.changes(0)
    assert [t["prompt"] for t in found["takes"]] == ["two"]
    assert len(found["notes"]) == 1
    assert "are gone" in found["notes"][0]


def asked(board: Board, what: str, **more: Any) -> dict[str, Any]:
    from flows.review.app import Asking

    chosen = [t["id"] for t in board.changes(0)["takes"] if t["prompt"] == "a star"]
    return further(board, Asking(takes=chosen, what=what, **more))


def test_files_that_ask_for_more_ask_for_the_same_takes_and_reuse_what_is_there(store, tmp_path):
    board = Board(existing_catalog(str(store)))
    board.keep_up()
    mine = {t["id"] for t in board.changes(0)["takes"] if t["prompt"] == "a star"}
    found = {
        "promote": asked(board, "promote"),
        "seeds": asked(board, "seeds", seeds=2),
        "setting": asked(board, "setting", settings="guidance=5 film.frames=20"),
    }
    plans, ids = {}, {}
    for what, file in found.items():
        assert file["remarks"] == []
        assert file["command"] == f"rushes render {file['name']} --store {store}"
        (tmp_path / file["name"]).write_text(file["text"])
        prepared = prepare(load_campaign([tmp_path / file["name"]], {}, []), str(store))
        ids[what] = {r["id"]: r for r in prepared.survey.query('SELECT * FROM "u_roots"').to_pylist()}
        plans[what] = prepared.survey.counts()
    assert set(ids["promote"]) == mine, "the very takes, by what they ask for"
    assert plans["promote"]["film"].todo == 0
    assert sorted(r["seed"] for r in ids["seeds"].values()) == [3, 4]
    assert {(r["guidance"], tuple(r["tags"])) for r in ids["seeds"].values()} == {(3.0, ("x",))}
    ((other,),) = (list(ids["setting"].values()),)
    assert (other["guidance"], other["seed"]) == (5.0, 0)
    assert yaml.safe_load(found["setting"]["text"])["steps"]["film"]["frames"] == 20
    with pytest.raises(BadInput, match="which setting"):
        asked(board, "setting", settings="")
    with pytest.raises(BadInput, match="1 to 1000"):
        asked(board, "seeds", seeds=0)


def test_a_take_with_pictures_is_asked_for_with_the_files_of_the_store(store, tmp_path):
    catalog = existing_catalog(str(store))
    base = {"prompt": "p", "seed": 1, "fit": "pad", "tags": None, "priority": 0, "footage": "c"}
    nothing = dict.fromkeys(("frame", "level", "scale", "start", "end"))
    conditions = [
        {**nothing, "kind": "still", "role": "first", "sha256": "a", "frame": 0},
        {**nothing, "kind": "still", "role": "keyframe", "sha256": "b", "frame": 8},
        {**nothing, "kind": "control", "role": "edges", "sha256": "c", "scale": 0.5},
    ]
    media = [{"sha256": s, "uri": f"media/{s}.png", "name": s} for s in "abc"]
    assert prompt_of({**base, "conditions": conditions, "media": media}, catalog) == {
        "prompt": "p",
        "fit": "pad",
        "image": f"{store}/media/a.png",
        "keyframes": {8: f"{store}/media/b.png"},
        "control": {"signal": "edges", "footage": f"{store}/media/c.png", "scale": 0.5},
    }


def test_what_cannot_be_made_again_is_said(store, tmp_path):
    board = Board(existing_catalog(str(store)))
    board.keep_up()
    record, unit = board.unit(board.changes(0)["takes"][0]["id"])
    prompts = [{**prompt_of(unit, board.catalog), "seeds": [1], "guidance": -1}]
    said = campaign_text(board.catalog, record, prompts, "x", whole=True)["remarks"]
    assert len(said) == 1
    assert "guidance" in said[0]


def test_the_command_prints_its_url_alone_on_a_line(store):
    words = ["review", "--store", str(store), "--port", "0"]
    program = "import sys, tests.conftest; from flows.cli.main import main; main(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True) as run:
        try:
            url = next(line for line in iter(run.stdout.readline, "") if line.startswith("http"))
            port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=[\w-]{40,}\n", url)[1])
            door = Door(("127.0.0.1",), port, url.strip().partition("token=")[2], "")
            assert ask(door, "/?token=" + door.token, cookie="")[0] == 200
            run.send_signal(signal.SIGINT)
            assert run.wait(300) in (0, 130)
        finally:
            run.kill()
