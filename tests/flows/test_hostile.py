"""Hostile footage through the command: every file ends as a row, nothing crashes, nothing is written elsewhere."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.run.session import existing_catalog
from flows.views.tables import read_table
from stages.core.ledger.upkeep import verify
from stages.core.reach.policy import local_path as local_path_of
from tests.data_prep.hostile import Case, a_few, hostile_cases, make

SOUND_SCORES = ("luma", "contrast", "sharpness", "motion", "static_ratio", "black_ratio")


class Attack:
    """One run of `rushes curate` in a process of its own over hostile files, and what it left."""

    def __init__(self, cases: list[Case], root: Path, limit_s: float) -> None:
        self.cases, self.root = cases, root
        for name in ("footage", "outside", "work", "temporary"):
            (root / name).mkdir()
        self.footage, self.store = root / "footage", root / "store"
        make(cases, self.footage, root / "outside")
        self.before = self.everything_else()
        command = [
            sys.executable,
            "-m",
            "flows.cli.main",
            "curate",
            self.footage,
            "--store",
            self.store,
            "--executor=local",
        ]
        paths = {"TMPDIR": str(root / "temporary"), "PYTHONPATH": str(Path(__file__).parents[2])}
        began = time.monotonic()
        self.done = subprocess.run(
            command, cwd=root / "work", env={**os.environ, **paths}, capture_output=True, text=True, timeout=limit_s
        )
        self.seconds = time.monotonic() - began

    def everything_else(self) -> dict[bytes, tuple[int, int]]:
        """Every file below the root that is not in the store, with its size and time of writing."""
        found = {}
        for folder, _, files in os.walk(os.fsencode(self.root)):
            if not folder.startswith(os.fsencode(self.store)):
                for name in files:
                    facts = os.lstat(os.path.join(folder, name))
                    found[os.path.join(folder, name)] = (facts.st_size, facts.st_mtime_ns)
        return found

    def rows(self) -> dict[bytes, dict[str, Any]]:
        """The rows of `sources` by their path below the folder."""
        table = read_table(existing_catalog(str(self.store)), "sources").to_pylist()
        start = len(os.fsencode(self.footage)) + 1
        return {os.fsencode(local_path_of(r["uri"]) or "")[start:]: r for r in table}

    def check(self) -> Counter[str]:
        """Everything that must hold; returns how many rows ended how."""
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        assert "Traceback" not in self.done.stdout + self.done.stderr
        assert self.everything_else() == self.before
        rows = self.rows()
        for case in self.cases:
            row = rows[os.fsencode(case.name)]
            assert row["status"] in case.allowed, (case.name, row["status"], row["error"], row["reasons"])
            assert row["status"] == "ok" or row["error"] or row["reasons"], case.name
        self.check_results(rows)
        return Counter(r["status"] for r in rows.values())

    def check_results(self, rows: dict[bytes, dict[str, Any]]) -> None:
        """What came of the sound ones is sound: clips lie in their source, scores are numbers, files are there."""
        catalog = existing_catalog(str(self.store))
        sound = {r["source_id"] for r in rows.values() if r["status"] == "ok"}
        clips = read_table(catalog, "clips").to_pylist()
        assert {c["source_id"] for c in clips} <= sound
        assert all(0 <= c["start_frame"] < c["end_frame"] and c["start_pts"] < c["end_pts"] for c in clips)
        scores = read_table(catalog, "scores").to_pylist()
        assert {s["clip_id"] for s in scores} == {c["clip_id"] for c in clips}
        assert all(s[name] is None or math.isfinite(s[name]) for s in scores for name in SOUND_SCORES)
        assert len(read_table(catalog, "verdicts")) == len(clips)
        assert verify(catalog).faults == []


def test_a_few_hostile_files(tmp_path: Path) -> None:
    counts = Attack(a_few(), tmp_path, 900).check()
    assert counts["ok"] >= 5
    assert counts["error"] >= 5


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_hostile_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = hostile_cases()
    assert len(cases) >= 200
    attack = Attack(cases, tmp_path, 3000)
    counts = attack.check()
    with capsys.disabled():
        print(json.dumps({"figure": "hostile_files", "files": len(cases), **counts, "seconds": round(attack.seconds)}))
