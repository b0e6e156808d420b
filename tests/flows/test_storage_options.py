"""Every command that looks at a store takes the options of its file system, as the runs that made it do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result

from flows.cli import doctor
from flows.cli.main import main
from flows.run.session import open_catalog

COMMANDS = ["status", "status ID", "table runs", "page", "report", "catalog verify", "catalog compact", "doctor"]
SECRET = "kanari-option"


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options with which the store is opened, each time."""
    open_catalog(str(tmp_path / "store"))
    found: list[dict[str, Any]] = []

    def opening(address: str, **options: Any) -> Any:
        found.append(options)
        return fsspec.filesystem("file"), address

    monkeypatch.setattr("stages.core.ledger.storage.fsspec.core.url_to_fs", opening)
    for name in ("packages", "weights", "ray", "prefect"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    return found


def rushes(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("command", COMMANDS)
def test_options_reach_the_file_system_and_are_not_shown(
    command: str, opened: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "s3.yaml").write_text(f"infra: {{storage: {{secret: {SECRET}, anon: true}}}}")
    words = [*command.split(), "--store", str(tmp_path / "store"), "--config", str(tmp_path / "s3.yaml")]
    done = rushes(*words, "infra.storage.endpoint_url=http://127.0.0.1:9000", "infra.storage.anon=false")
    assert opened
    wanted = {"secret": SECRET, "anon": False, "endpoint_url": "http://127.0.0.1:9000"}
    assert all(wanted.items() <= options.items() for options in opened)
    assert SECRET not in done.output
    assert isinstance(done.exception, SystemExit | None), done.exception


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("catalog", "verify", "infra.executor=ray"),
            "infra.executor: this command takes infra.storage.KEY=VALUE only",
        ),
        (("status", "a", "b=kanari"), "b: this command takes [ID|FILE|SHA256] and infra.storage.KEY=VALUE only"),
        (("page", "--config", "nowhere.yaml"), "cannot read nowhere.yaml"),
    ],
)
def test_other_words_are_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = rushes(*words, "--store", str(tmp_path))
    assert (done.exit_code, said in done.stderr) == (2, True), done.output
