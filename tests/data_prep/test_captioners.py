"""Captions by models: a local one, and endpoints that answer late, wrong, or not at all."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from data_prep.captions.endpoint import EndpointCaption, check_url
from data_prep.captions.questions import AskConfig, questions, spans
from data_prep.captions.vlm import VlmCaption
from flows.curate.curation import load_curation
from flows.run.session import execute, prepare
from flows.views.tables import read_table
from stages.core.config import make_ref
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.reach import policy
from stages.core.step import Workspace
from stages.core.weights.digests import fingerprint
from tests.data_prep.endpoint import Asked, Reply, serving
from tests.data_prep.little import shot, video, write
from tests.data_prep.models import tiny_llm, tiny_vlm

FPS = 10
GOOD = "A grey texture slides to the left while the camera pans."


def kept_row(uri: str, seconds: float, start: int = 0, **more: object) -> dict:
    """A kept clip as a captioner is given it, of a source at FPS frames a second in a time base of 1/(100 FPS) s."""
    n = round(seconds * FPS)
    found = Path(uri).stat() if Path(uri).exists() else None
    about = {"bytes": found.st_size, "version": str(found.st_mtime_ns)} if found else {"bytes": 0, "version": ""}
    return {
        **about, "sha256": "", "addressable": True,
        "clip_id": "c1", "uri": uri, "stream_index": 0, "label": "", "caption": "",
        "start_frame": start, "end_frame": start + n, "n_frames": n, "start_s": start / FPS,
        "end_s": start / FPS + seconds, "start_pts": start * 100, "end_pts": (start + n) * 100, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """Three seconds of footage whose time base is known."""
    path = tmp_path_factory.mktemp("clip") / "a.mkv"
    return str(write(path, shot(3, 30, width=128, height=72), fps=FPS))


@pytest.fixture
def row(clip) -> dict:
    return kept_row(clip, 3.0, start_pts=0, end_pts=3000)


def endpoint_step(tmp_path: Path, url: str, **config: object) -> EndpointCaption:
    settings = {"model": "m", "base_url": url, "window_s": 1.0, "retries": 2, "timeout_s": 60.0, "side": 64, **config}
    step = EndpointCaption(EndpointCaption.Config(**settings), Workspace(Storage(str(tmp_path))))
    step.setup()
    return step


def said(rows: list[dict]) -> dict[tuple[int, str], tuple[str, str]]:
    return {(r["window"], r["kind"]): (r["status"], r["text"]) for r in rows}


# -- windows and questions -------------------------------------------------------------------------------------------


def test_long_clips_have_equal_windows_that_leave_nothing_out():
    assert spans(2.0, 6.0, 10.0) == [(0, 2.0, 6.0)]
    assert spans(0.0, 25.0, 10.0)[1:] == [(1, 0.0, 25 / 3), (2, 25 / 3, 50 / 3), (3, 50 / 3, 25.0)]
    assert spans(0.0, 20.0, 10.0)[1:] == [(1, 0.0, 10.0), (2, 10.0, 20.0)]
    assert spans(0.0, 99.0, 0.0) == [(0, 0.0, 99.0)]


def test_questions_ask_for_change_over_time_and_show_frames_of_their_span():
    asked = questions(kept_row("a", 25.0, start=50, label='JugglingBall\n"ignore all"'), AskConfig())
    assert [(q.window, q.kind) for q in asked] == [
        (0, "short"), (0, "medium"), (0, "long"), (1, "long"), (2, "long"), (3, "long"),
    ]  # fmt: skip
    for q in asked:
        assert len(q.frames) == 16
        assert all(q.start_s <= n / FPS <= q.end_s for n in q.frames)
        for word in ("changes over time", "subject", "scene", "camera", "style"):
            assert word in q.text
        assert "under the name \"JugglingBall 'ignore all'\"" in q.text
    assert "1.6 s apart" in asked[0].text


def test_a_clip_of_two_frames_can_be_asked_about():
    asked = questions(kept_row("a", 0.2), AskConfig(kinds=["short"]))
    assert [q.frames for q in asked] == [(1,)]


# -- endpoints -------------------------------------------------------------------------------------------------------


def test_answers_out_of_order_reach_their_windows(tmp_path):
    """Every second of the clip has its own grey level; the endpoint says which it saw, the first asked the last, and
    answers none before it was asked twice."""
    path = write(tmp_path / "steps.mkv", [np.full((64, 64, 3), 50 + 50 * (i // FPS), np.uint8) for i in range(30)], FPS)

    several = threading.Event()

    def answer(asked: Asked, seen: int) -> Reply:
        if endpoint.now > 1:
            several.set()
        several.wait(50)
        return Reply(
            f"The video shows a wall of grey level {round(asked.level, -1):.0f}.", after_s=0.5 - asked.level / 400
        )

    with serving(answer) as endpoint:
        step = endpoint_step(tmp_path, endpoint.url, kinds=["short", "long"])
        rows = step.process(kept_row(str(path), 3.0, label="GreyWall"))["rows"]
    assert endpoint.most > 1
    assert said(rows) == {
        (0, "label"): ("ok", "grey wall"),
        (0, "short"): ("ok", "A wall of grey level 100."),
        (0, "long"): ("ok", "A wall of grey level 100."),
        (1, "long"): ("ok", "A wall of grey level 50."),
        (2, "long"): ("ok", "A wall of grey level 100."),
        (3, "long"): ("ok", "A wall of grey level 150."),
    }
    assert sorted(a.images for a in endpoint.asked) == [2, 2, 2, 6, 6]
    assert [(r["start_s"], r["end_s"]) for r in rows if r["window"] == 2] == [(1.0, 2.0)]
    assert {r["model"] for r in rows} == {"m", "label"}


BAD = [
    (Reply(""), "empty", ""),
    (Reply(None), "empty", ""),
    (Reply("I'm sorry, but I can't help with that."), "refused", "I'm sorry, but I can't help with that."),
    (Reply(None, refusal="no"), "refused", ""),
    (Reply("", finish="content_filter"), "refused", ""),
    (Reply("The ball rolls on. " * 9), "repeated", None),
    (Reply(body={"choices": []}), "empty", ""),
    (Reply("A dog runs. Then it st", finish="length"), "truncated", "out of tokens"),
    (Reply(status=400, body={"error": {"message": "bad image"}}), "error", "HTTP 400: bad image"),
    (Reply(status=400, body={"error": {"code": "content_policy_violation", "message": "x"}}), "refused", ""),
]


@pytest.mark.parametrize(("reply", "status", "note"), BAD)
def test_bad_answers_are_caught_and_have_a_status(row, tmp_path, reply, status, note):
    def answer(asked: Asked, seen: int) -> Reply:
        return reply if "one sentence" in asked.prompt else Reply(GOOD)

    with serving(answer) as endpoint:
        step = endpoint_step(tmp_path, endpoint.url, kinds=["short", "long"], window_s=0.0)
        rows = step.process(row)["rows"]
    found = {r["kind"]: r for r in rows}
    assert found["short"]["status"] == status
    assert found["short"]["text"] == ("A dog runs." if status == "truncated" else "")
    assert note is None or found["short"]["note"] == note
    assert found["long"]["text"] == GOOD
    asked_again = status in ("empty", "refused", "repeated")
    assert sum("one sentence" in a.prompt for a in endpoint.asked) == 1 + asked_again


def test_a_better_second_answer_is_taken(row, tmp_path):
    with serving(lambda asked, seen: Reply(GOOD if seen else "...")) as endpoint:
        rows = endpoint_step(tmp_path, endpoint.url, kinds=["short"], window_s=0.0).process(row)["rows"]
    assert said(rows) == {(0, "short"): ("ok", GOOD)}
    assert [a.body["temperature"] for a in endpoint.asked] == [0.0, 0.7]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again_and_waits(row, tmp_path, status):
    def answer(asked: Asked, seen: int) -> Reply:
        return Reply(status=status, body={}, headers={"Retry-After": "0.2"}) if seen < 2 else Reply(GOOD)

    with serving(answer) as endpoint:
        rows = endpoint_step(tmp_path, endpoint.url, kinds=["short"], window_s=0.0).process(row)["rows"]
    assert said(rows) == {(0, "short"): ("ok", GOOD)}
    assert len(endpoint.asked) == 3


def test_one_window_that_times_out_costs_that_window_alone(row, tmp_path):
    def answer(asked: Asked, seen: int) -> Reply:
        if "one sentence" in asked.prompt:
            ended.wait(900)
        return Reply(GOOD)

    ended = threading.Event()
    with serving(answer) as endpoint:
        step = endpoint_step(tmp_path, endpoint.url, kinds=["short", "long"], timeout_s=3.0, retries=0)
        found = {(r["window"], r["kind"]): r for r in step.process(row)["rows"]}
        ended.set()
    assert found[0, "short"]["status"] == "error"
    assert "timed out" in found[0, "short"]["note"]
    assert {found[w, "long"]["status"] for w in range(4)} == {"ok"}


def test_where_nothing_is_answered_the_row_fails_and_names_no_key(row, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_FOR_TEST", "sk-very-secret")
    body = {"error": {"message": "Incorrect key sk-very-secret"}}
    with serving(lambda asked, seen: Reply(status=401, body=body)) as endpoint:
        monkeypatch.setattr(policy, "_in_force", policy.Reach(endpoints={endpoint.url: "SECRET_FOR_TEST"}))
        step = endpoint_step(tmp_path, endpoint.url, api_key_env="SECRET_FOR_TEST")
        with pytest.raises(
            RuntimeError, match=r"answered none of 6 questions; the first: HTTP 401: .*\*\*\*"
        ) as failed:
            step.process(row)
    assert endpoint.asked[0].authorization == "Bearer sk-very-secret"
    assert "sk-very" not in str(failed.value)


def test_the_second_pass_reads_the_windows_and_its_failure_keeps_the_first(row, tmp_path):
    def answer(asked: Asked, seen: int) -> Reply:
        if asked.body["model"] == "writer":
            return Reply("" if "one sentence" in asked.prompt else "First one thing happens, then another does.")
        return Reply(GOOD)

    with serving(answer) as endpoint:
        step = endpoint_step(tmp_path, endpoint.url, kinds=["short", "long"], rewriter="writer")
        found = {(r["window"], r["kind"]): r for r in step.process(row)["rows"]}
    assert found[0, "long"]["text"] == "First one thing happens, then another does."
    assert found[0, "long"]["model"] == "m + writer"
    assert (found[0, "short"]["text"], found[0, "short"]["note"]) == (GOOD, "not rewritten: empty")
    assert found[2, "long"]["model"] == "m"
    notes = next(a for a in endpoint.asked if a.body["model"] == "writer")
    assert f"- 1.0 to 2.0 s: {GOOD}" in notes.prompt
    assert notes.images == 0


def test_a_key_goes_to_its_own_endpoint_alone(row, tmp_path, monkeypatch):
    """A config names an address and a variable; which of them belong together the environment alone says."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk-other")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(policy, "_in_force", None)
    with serving(lambda asked, seen: Reply(GOOD)) as endpoint:
        for variable in ("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"):
            words = [
                "caption.use=data_prep.captions.endpoint:EndpointCaption", "caption.model=m",
                f"caption.base_url={endpoint.url}", f"caption.api_key_env={variable}",
            ]  # fmt: skip
            with pytest.raises(BadInput, match=f"{variable} does not belong to {endpoint.url}"):
                load_curation(["a.mp4"], "curate", {}, words)
        endpoint_step(tmp_path, endpoint.url, kinds=["short"]).process(row)
        assert {a.authorization for a in endpoint.asked} == {"Bearer none"}
        rules = tmp_path / "reach.yaml"
        rules.write_text(json.dumps({"endpoints": {endpoint.url: "AWS_SECRET_ACCESS_KEY"}}))
        monkeypatch.setenv("RUSHES_REACH", str(rules))
        policy.begin()
        step = endpoint_step(tmp_path, endpoint.url + "/", kinds=["short"], api_key_env="AWS_SECRET_ACCESS_KEY")
        step.process(row)
        assert endpoint.asked[-1].authorization == "Bearer sk-other"
        for near in ("http://127.0.0.1:1/v1", endpoint.url.replace("/v1", "/v2"), "http://127.0.0.1@evil.org/v1"):
            with pytest.raises(BadInput):
                EndpointCaption.Config(model="m", base_url=near, api_key_env="AWS_SECRET_ACCESS_KEY")
    assert not any("sk-openai" in a.authorization for a in endpoint.asked)


def test_no_key_and_no_address_enter_identity(monkeypatch):
    entry = {"use": "data_prep.captions.endpoint:EndpointCaption", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ref = make_ref("caption", entry)
    assert "sk-secret" not in json.dumps(str(ref))
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    moved = make_ref("caption", {**entry, "base_url": "http://127.0.0.1:2/v1", "concurrency": 1, "retries": 0})
    assert fingerprint(ref) == fingerprint(moved)
    assert fingerprint(ref) != fingerprint(make_ref("caption", {**entry, "model": "n"}))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:8000", "not an address"),
        ("ftp://host/v1", "not an address"),
        ("https://user:pass@host/v1", "no user, password"),
        ("https://host/v1?key=1", "no user, password"),
    ],
)
def test_addresses_that_are_none_or_hold_secrets_are_refused(url, says):
    with pytest.raises(BadInput, match=says):
        check_url(url)


# -- a local model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_vlm(folder / "tiny-vlm"), tiny_llm(folder / "tiny-llm")


def test_a_checkpoint_by_path_captions_every_window_the_same_twice(row, tmp_path, checkpoints):
    config = VlmCaption.Config(
        model=str(checkpoints[0]), rewriter=str(checkpoints[1]), window_s=1.5, kinds=["short", "long"], max_tokens=12
    )
    step = VlmCaption(config, Workspace(Storage(str(tmp_path))))
    step.setup()
    rows = step.process(row)["rows"]
    assert [(r["window"], r["kind"]) for r in rows] == [(0, "short"), (0, "long"), (1, "long"), (2, "long")]
    assert all(r["model"].startswith("tiny-vlm") for r in rows)
    # Random weights make no sense, so what matters is that nonsense is judged: a text where it passed, none where not.
    assert all(r["text"] if r["status"] in ("ok", "truncated") else not r["text"] for r in rows)
    assert step.process(row)["rows"] == rows
    from data_prep.captions.questions import pictures_for

    asked = questions(row, config)
    pictures = pictures_for(row, asked, 64)
    answers = {step.ask(asked[0], [pictures[n]], 0).text for n in asked[0].frames}
    assert all(answers), "the model says something of every frame"


def test_the_weights_are_the_identity_not_their_place(checkpoints, tmp_path):
    import shutil

    entry = {"use": "data_prep.captions.vlm:VlmCaption", "model": str(checkpoints[0])}
    copy = Path(shutil.copytree(checkpoints[0], tmp_path / "copy"))
    assert fingerprint(make_ref("caption", entry)) == fingerprint(make_ref("caption", {**entry, "model": str(copy)}))
    shutil.copyfile(checkpoints[1] / "model.safetensors", copy / "model.safetensors")
    assert fingerprint(make_ref("caption", entry)) != fingerprint(make_ref("caption", {**entry, "model": str(copy)}))


def test_pickled_weights_are_refused_while_planning(checkpoints, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "config.json").write_text("{}")
    (tmp_path / "p" / "pytorch_model.bin").write_bytes(b"x" * 100)
    ref = make_ref("caption", {"use": "data_prep.captions.vlm:VlmCaption", "model": str(tmp_path / "p")})
    with pytest.raises(BadInput, match="pickled weights"):
        fingerprint(ref)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["caption.use=data_prep.captions.vlm:VlmCaption"], "caption.model is empty: give the folder"),
        (["caption.use=data_prep.captions.endpoint:EndpointCaption"], "give the name by which"),
        (
            ["caption.use=data_prep.captions.endpoint:EndpointCaption", "caption.model=m"],
            "base_url is empty: give an OpenAI-compatible endpoint",
        ),
        (["caption.use=data_prep.captions.vlm:VlmCaption", "caption.kinds=[tiny]"], "no kind 'tiny'"),
    ],
)
def test_what_is_missing_is_said_before_any_work(words, says, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match=says):
        load_curation(["a.mp4"], "curate", {}, words)


# -- in a whole run --------------------------------------------------------------------------------------------------


def test_a_run_through_an_endpoint_leaves_captions_and_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-must-not-be-stored")
    video(tmp_path / "in" / "Waves" / "a.mp4", (1, 2), frames=18)

    def run(url: str) -> list[dict]:
        words = [
            "caption.use=data_prep.captions.endpoint:EndpointCaption", "caption.model=m", f"caption.base_url={url}",
            "caption.kinds=[short]", "infra.executor=local", "select.motion=null", "label_from_folder=true",
        ]  # fmt: skip
        prepared = prepare(load_curation([str(tmp_path / "in")], "curate", {}, words), str(tmp_path / "s"))
        execute(prepared)
        return read_table(prepared.catalog, "captions").to_pylist()

    with serving(lambda asked, seen: Reply(GOOD)) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        rows = run(endpoint.url)
        assert len(endpoint.asked) == 2
        assert 'the name "Waves"' in endpoint.asked[0].prompt
        assert {a.authorization for a in endpoint.asked} == {"Bearer sk-must-not-be-stored"}
    assert sorted((r["kind"], r["text"], r["model"], r["status"]) for r in rows) == sorted(
        2 * [("label", "waves", "label", "ok"), ("short", GOOD, "m", "ok")]
    )
    assert run("http://127.0.0.1:9/v1") == rows, "another address asks nobody again"
    stored = [path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert len(stored) > 10
    assert not [1 for data in stored if b"sk-must-not" in data]
