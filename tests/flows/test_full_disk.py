"""The commands on disks that are really full, in memory; see tests/flows/full_disk.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from stages.core.config_files import ROOT

NO_ROOM = "no space is left there; make room and run the same command again"


def test_full_disks_are_one_sentence_and_a_rerun_completes(tmp_path):
    command = ["unshare", "-rm", sys.executable, "-m", "tests.flows.full_disk", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    try:
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        pytest.skip("there is no `unshare`")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert not any("Error" in output or "Traceback" in output for _, _, output in found), found
    shown = {what: (status, output) for what, status, output in found}
    full = {
        "full store": "store",
        "full temporary folder": "temporary",
        "curate, full store": "curated",
        "publish, full temporary folder": "temporary",
        "publish, full store": "curated",
    }
    for what, folder in full.items():
        status, output = shown[what]
        assert status == 3, output
        assert f"stopped (cannot write to {tmp_path / folder}" in output
        assert NO_ROOM in output
        assert "failed" not in output
    assert shown["full export"][0] == 2
    assert (
        f"--export {tmp_path / 'out'}: No space left on device; the videos are in the store" in shown["full export"][1]
    )
    assert shown["read-only store"][0] == 2
    assert f"cannot write to {tmp_path / 'store'}: Read-only file system" in shown["read-only store"][1]
    assert [status for what, status, _ in found if what == "verify"] == [0] * 6
    for command in ("", "curate, ", "publish, "):
        assert shown[f"{command}room everywhere"][0] == 0, shown
    assert "6 clips: 6 kept" in shown["curate, room everywhere"][1]
    assert shown["frames"][0] == 120
    assert shown["a folder within a closed one"][0] == 0, shown
    status, output = shown["a new folder within a closed one"]
    assert status == 2
    assert f"{tmp_path / 'closed' / 'new'}" in output
    assert "Read-only file system" in output
    assert "2 rows" in shown["videos"][1]  # the run for the new folder has not begun
    assert shown["exported"][0] == 0, shown
