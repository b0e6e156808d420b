"""`rushes doctor`: every finding says what is there, and what to do about what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from flows.cli import doctor
from flows.cli.doctor import MISSING, NOTE, OK, Finding
from flows.cli.main import main


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {f.name: f for f in findings}


def test_here_everything_needed_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_checkpoint: Path
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(doctor, "CONFIGS", model_config(tmp_path, small_checkpoint))
    assert doctor.examine(str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "x264" in output
    assert "can be written to" in output
    assert "complete" in output
    assert not list(tmp_path.rglob("doctor-*"))


def model_config(folder: Path, checkpoint: Path) -> Path:
    (folder / "models").mkdir()
    (folder / "models" / "small.yaml").write_text(f"family: ltx\ncheckpoint: {checkpoint}\n")
    return folder


@pytest.mark.parametrize(("shipped", "status"), [(True, MISSING), (False, NOTE)])
def test_an_incomplete_checkpoint_is_named(
    shipped: bool, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes with the project must be whole."""
    folder = tmp_path / "checkpoint"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps({}))
    monkeypatch.setattr(doctor, "CONFIGS", model_config(tmp_path, folder))
    monkeypatch.setattr(doctor, "ROOT", tmp_path if shipped else tmp_path / "elsewhere")
    [finding] = doctor.weights()
    assert finding.status == status
    assert "it has no tokenizer/, text_encoder/, vae/, scheduler/" in finding.state
    assert finding.advice


def test_published_weights_that_are_not_here_share_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    for name in ("a", "b"):
        entry = f"family: wan\ncheckpoint: owner/{name}\nrevision: main\n"
        (tmp_path / "models" / f"{name}.yaml").write_text(entry)
    monkeypatch.setattr(doctor, "CONFIGS", tmp_path)
    [finding] = doctor.weights()
    assert (finding.status, finding.state) == (NOTE, "not downloaded: a, b")


@pytest.mark.parametrize(
    ("requirement", "wrong"),
    [("numpy", ""), ("numpy>=999", "required >=999"), ("no-such-package-here", "not installed")],
)
def test_requirements_are_held_against_what_is_installed(requirement: str, wrong: str) -> None:
    mismatch = doctor.mismatch(Requirement(requirement))
    assert wrong in mismatch
    assert bool(mismatch) == bool(wrong)


def test_another_version_than_the_pinned_one_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# tested\nnumpy==0.0.1\nclick==8.0  # why\nwin-only==1; sys_platform == 'win32'\n")
    assert doctor.read_constraints(file) == {"numpy": "0.0.1", "click": "8.0"}


def test_a_server_that_does_not_answer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    [finding] = doctor.prefect()
    assert finding.status == MISSING
    assert "http://127.0.0.1:9/api" in finding.state
    assert "rushes serve" in finding.advice


def test_a_store_that_cannot_be_written_to_is_missing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tmp").write_text("in the way")
    [finding] = doctor.writable(str(tmp_path / "store"))
    assert finding.status == MISSING
    [finding] = doctor.writable(str(tmp_path / "new" / "store"))
    assert finding.status == OK
    assert not (tmp_path / "new").exists()


def test_an_ffmpeg_without_x264_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run", lambda command: "Encoders:\n V..... mpeg4\n")
    [finding] = doctor.ffmpeg()
    assert finding.status == MISSING
    assert "libx264" in finding.state


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RUSHES_REACH", "/nowhere/rules.yaml", "cannot read /nowhere/rules.yaml"),
        ("RUSHES_OVERRIDES", "infra.excutor=ray", "unknown key 'excutor'; did you mean 'executor'?"),
        ("RUSHES_OVERRIDES", "infra.executor='ray", "cannot be read"),
        ("TMPDIR", "/nowhere", "/nowhere is no folder"),
        ("RAY_TMPDIR", "/nowhere", "RAY_TMPDIR=/nowhere"),
    ],
)
def test_a_variable_that_stops_every_run_is_missing(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "import_fault", lambda package: "")
    monkeypatch.setattr(doctor, "weights", lambda: iter(()))
    monkeypatch.setattr(doctor, "packages", lambda: iter(()))
    monkeypatch.setenv(name, value)
    [finding] = [f for f in doctor.run_checks() if said in f.state]
    assert finding.status == MISSING


def test_a_package_that_is_there_and_cannot_be_imported_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "prefect"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('broken wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for [finding] in (list(doctor.ray()), list(doctor.prefect())):
        assert finding.status == MISSING
        assert "broken wheel" in finding.state


@pytest.mark.parametrize(("url", "said"), [("gs://b/x", "install the extra gcs"), ("nope://b", "no file system")])
def test_a_file_system_that_cannot_be_opened_is_a_sentence(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **options: object) -> None:
        raise ImportError("Please install gcsfs")

    if url.startswith("gs:"):
        monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    for name in ("packages", "weights", "ray", "prefect"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    found = [f for f in doctor.run_checks(url) if f.name in ("disk", "store")]
    assert [(f.status, said in f.state) for f in found] == [(MISSING, True)] * 2
    done = CliRunner().invoke(main, ["status", "--store", url])
    assert (done.exit_code, said in done.stderr) == (2, True), done.output
