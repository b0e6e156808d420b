"""Canaries in every place that may hold a secret, searched for in every byte that a run leaves and says."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.main import main
from infra.ray.cluster import worker_environment
from infra.ray.settings import RaySettings
from stages.core.errors import BadInput
from stages.core.ledger.storage import Storage
from stages.core.reach.secrets import bare, bare_in, cleared, remember, shown
from stages.core.running.executor import describe
from tests.data_prep.little import video
from tests.reach.servers import site

CANARIES = ("kanari-option", "kanari-nested", "kanari-env", "kanari-user", "kanari-password", "kanari-query")


def said(*words: object) -> str:
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code in (0, 2), result.output
    return result.output


def texts(path: Path) -> bytes:
    """All bytes of a file; of Parquet also what its columns hold, which is compressed there."""
    data = path.read_bytes()
    return (
        data + json.dumps(pq.read_table(path).to_pylist(), default=str).encode() if path.suffix == ".parquet" else data
    )


@pytest.fixture
def curation(tmp_path: Path) -> Path:
    """A config with a canary in each option that may hold a key."""
    path = tmp_path / "own.yaml"
    path.write_text(
        "infra:\n  executor: local\n"
        "  storage: {secret: kanari-option, client_kwargs: {password: kanari-nested}}\n"
        "  ray: {env: {SOME_KEY: kanari-env}}\n"
    )
    return path


def test_no_canary_is_in_anything_that_a_curation_leaves_or_says(tmp_path: Path, curation: Path) -> None:
    """Footage behind an address with user, password and signature is read, again with another signature, and published
    nowhere with them."""
    clip = video(tmp_path / "made" / "a.mp4", (1, 2), frames=18).read_bytes()
    store = tmp_path / "store"
    with site({"/in/a.mp4": clip, "/in/m.csv": b""}, needs="sig=kanari-query") as web:
        user = "kanari-user:kanari-password@"
        listed = web.url("/in/m.csv?sig=kanari-query", user)

        def run(more: str, *words: str) -> str:
            rows = [web.url(f"/in/{name}?sig=kanari-query{more}", user) for name in ("a.mp4", "gone.mp4")]
            rows += [f"{rows[0]}&number={i}" for i in range(2)]
            web.files["/in/m.csv"] = ("uri,label\n" + "".join(f"{r},l\n" for r in rows)).encode()
            return said("curate", listed, "--store", store, "--config", curation, "select.motion=null", *words)

        out = [run("", "--dry-run"), run(""), again := run("&again=1")]
        assert web.asked
        assert {who for _, who in web.asked} - {""} == {"Basic a2FuYXJpLXVzZXI6a2FuYXJpLXBhc3N3b3Jk"}
    assert "nothing to do" in again, "another signature is the same footage"
    out += [said("status", "--store", store), said("report", "--store", store, "--out", tmp_path / "page.html")]
    for name in ("runs", "sources", "clips"):
        for suffix in ("csv", "jsonl", "parquet") if name == "runs" else ("parquet",):
            out.append(said("table", name, "--store", store, "--out", tmp_path / "out" / f"{name}.{suffix}"))
        out.append(said("table", name, "--store", store))
    sources = pq.read_table(tmp_path / "out" / "sources.parquet").to_pylist()
    assert {(Path(s["uri"]).name, s["status"]) for s in sources} == {
        ("a.mp4", "ok"), ("gone.mp4", "error"), ("a.mp4", "error"),
    }  # fmt: skip
    assert len(sources) == 4, "addresses that differ only in their query each keep their row"
    assert next(s for s in sources if s["status"] == "ok")["uri"] == f"http://{web.host}/in/a.mp4"
    config = json.loads(pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()[-1]["config"])
    assert config["infra"]["storage"] == {"secret": "***", "client_kwargs": {"password": "***"}}
    assert config["infra"]["ray"]["env"] == {"SOME_KEY": "***"}
    left = [p for place in (store, tmp_path / "out") for p in place.rglob("*") if p.is_file()]
    assert len(left) > 15
    everything = [*map(texts, [*left, tmp_path / "page.html"]), "\n".join(out).encode()]
    assert [c for c in CANARIES if any(c.encode() in data for data in everything)] == []


def test_a_store_shows_no_password_and_is_opened_with_it() -> None:
    store = Storage("memory://kanari-user:kanari-password@host/x?sig=kanari-query", {"token": "kanari-option"})
    assert store.url == "memory://host/x"
    assert "kanari-user:kanari-password@host" in store.address
    assert "kanari" not in repr(store)
    assert describe(RuntimeError("GET memory://a:b@h/x?y=1 with kanari-option and kanari-query failed")) == (
        "RuntimeError: GET memory://h/x with *** and *** failed"
    )


def test_a_server_of_prefect_is_named_without_its_password(tmp_path: Path) -> None:
    url = "http://kanari-user:kanari-password@127.0.0.1:9/api"
    words = ["render", "demo", "--store", tmp_path / "s", f"infra.prefect.api_url={url}", "infra.executor=local"]
    out = said(*words)
    assert "does not answer" in out
    assert "kanari" not in out + said(*words, "--dry-run")


def test_logs_and_tracebacks_are_cleared() -> None:
    from stages.core.reach.secrets import guard_output

    make = logging.getLogRecordFactory()
    try:
        guard_output()
        remember(["kanari-option"])
        stream = io.StringIO()
        log = logging.getLogger("some.library")
        log.addHandler(handler := logging.StreamHandler(stream))
        try:
            raise ValueError("no kanari-option at http://u:p@h/x?sig=1")
        except ValueError:
            log.warning("failed %s", {"key": "kanari-option"}, exc_info=True)
        log.removeHandler(handler)
    finally:
        logging.setLogRecordFactory(make)
    assert "kanari" not in stream.getvalue()
    assert "u:p@" not in stream.getvalue()
    assert "http://h/x" in stream.getvalue()


def test_a_cluster_is_told_no_key_and_workers_are_handed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cluster is told stands in Ray's logs and in its list of processes."""
    from infra.ray.actor import Surroundings
    from stages.core.reach import policy

    env = {"SOME_KEY": "kanari-env", "OMP_NUM_THREADS": "2"}
    told = worker_environment(RaySettings(address="auto", env=env))
    assert "SOME_KEY" not in told
    assert told["OMP_NUM_THREADS"] == "2"
    assert worker_environment(RaySettings(env=env))["SOME_KEY"] == "kanari-env", "a Ray of our own inherits it"
    handed = Surroundings.here(env)
    assert "kanari" not in repr(handed)
    monkeypatch.setenv("SOME_KEY", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(policy, "_in_force", None)
    handed.take_over()
    import os

    assert os.environ["SOME_KEY"] == "kanari-env"
    assert policy.in_force() is handed.reach


@pytest.mark.parametrize("name", ["RUSHES_REACH", "OPENAI_BASE_URL", "https_proxy"])
def test_a_config_cannot_lead_keys_elsewhere_by_the_environment_of_workers(name: str) -> None:
    with pytest.raises(BadInput, match=f"infra.ray.env.{name}"):
        RaySettings(env={name: "http://elsewhere"})


def test_a_form_with_a_key_in_it_is_refused_without_repeating_it() -> None:
    from flows.prefect.form import check_form

    check_form("s3://bucket/x", "/data", overrides=["seeds=2", "infra.storage.endpoint_url=http://127.0.0.1:9000"])
    for places, words in (
        (["s3://kanari-user:kanari-password@bucket/x"], []),
        (["https://host/a.mp4?sig=kanari-query"], []),
        ([], ["infra.storage.secret=kanari-option"]),
        ([], ["infra={storage: {client_kwargs: {password: kanari-nested}}}"]),
        ([], ["infra.ray.env.SOME_KEY=kanari-env"]),
        ([], ["infra.prefect.api_url=http://a:kanari-password@host/api"]),
    ):
        with pytest.raises(BadInput) as refused:
            check_form(*places, overrides=words)
        assert "kanari" not in str(refused.value)
        assert "Prefect keeps" in str(refused.value)


def test_prefects_keys_go_to_the_server_of_the_environment_alone() -> None:
    from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    from flows.prefect.flow_run import _without_keys_for

    with temporary_settings({PREFECT_API_URL: "http://own:1/api", PREFECT_API_KEY: "kanari-key"}):
        assert _without_keys_for("http://own:1/api") == {}
        with temporary_settings(
            {PREFECT_API_URL: "http://elsewhere:1/api", **_without_keys_for("http://elsewhere:1/api")}
        ):
            assert PREFECT_API_KEY.value() is None


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("https://u:p@host:1/a/b.mp4?X=1&Y=2#z", "https://host:1/a/b.mp4"),
        ("s3://key:secret@bucket/clip?.mp4", "s3://bucket/clip?.mp4"),
        ("s3://bucket/a.mp4?versionId=1", "s3://bucket/a.mp4"),
        ("promoted:NAME@s3://k:s@bucket/store", "promoted:NAME@s3://bucket/store"),
        ("/a path/with ? and @", "/a path/with ? and @"),
        ("file:///a%20?b", "file:///a%20?b"),
    ],
)
def test_bare_addresses(address: str, plain: str) -> None:
    assert bare(address) == plain
    assert bare_in(f"see '{address}', please" if " " not in address else address).count(plain) == 1


@given(st.text(st.characters(exclude_characters="/?#@: '\"<>`\\", categories=["L", "N", "P"]), min_size=4))
def test_no_part_that_is_taken_away_is_left(secret: str) -> None:
    address = f"https://user:{secret}@host/clip.mp4?sig={secret}"
    assert bare(address) == "https://host/clip.mp4"
    assert cleared(f"GET {address} 403") == "GET https://host/clip.mp4 403"


def test_texts_of_people_are_left_alone() -> None:
    said = {"prompt": "a sign that reads https://x/?a=1", "image": "https://u:p@h/i.png?sig=1", "n": [1, None]}
    assert shown(said, ("prompt",)) == {"prompt": said["prompt"], "image": "https://h/i.png", "n": [1, None]}


def test_metadata_of_a_table_hold_nothing_either(tmp_path: Path) -> None:
    """The reader of these tests would find a canary, compressed as it is."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["kanari-option"] * 100}), path, compression="zstd")
    assert b"kanari-option" in texts(path)
