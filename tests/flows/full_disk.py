"""As a script in a namespace of its own, where it may mount: the commands on disks that are full, then have room again.

    unshare -rm python -m tests.flows.full_disk FOLDER

Prints a line of JSON per command: (what was tried, exit status, output). Exit status 77 where nothing can be mounted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from click.testing import CliRunner

from flows.cli.main import main
from stages.core import config
from tests.data_prep.little import video
from tests.data_prep.numbered import shown
from tests.flows.curated import KEEP_ALL

TOYS = {
    "text": {"use": "tests.flows.toys:Letters", "again": 100_000},
    "draw": {"use": "tests.flows.toys:Draw"},
    "finish": {"use": "tests.flows.toys:Finish"},
}


def mount(folder: Path, *options: str) -> None:
    """A disk in memory."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        sys.exit(77)


def fill(folder: Path, left: int = 0) -> Path:
    """Leave no room, or so many bytes of it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.truncate(ballast, ballast.stat().st_size - left)
            return ballast


def tried(what: str, *words: object) -> None:
    done = CliRunner().invoke(main, [str(w) for w in words])
    fault = "" if done.exception is None or isinstance(done.exception, SystemExit) else repr(done.exception)
    print(json.dumps([what, done.exit_code, done.output + fault]), flush=True)


def run(folder: Path) -> None:
    """Two prompts whose texts take 0.3 and 0.7 MB."""
    config.PACKAGES = (*config.PACKAGES, "tests.")
    store, temporary, out = folder / "store", folder / "temporary", folder / "out"
    mount(store, "size=800k")
    mount(temporary, "size=64k")
    mount(out, "size=64k")
    tempfile.tempdir = str(temporary)
    cascade, campaign = folder / "cascade.yaml", folder / "toys.yaml"
    cascade.write_text(yaml.safe_dump({"steps": TOYS, "infra": {"executor": "local"}}, sort_keys=False))
    campaign.write_text(yaml.safe_dump({"name": "toys", "prompts": ["one", "two two"], "cascade": str(cascade)}))
    render, verify = ("render", campaign, "--store", store), ("catalog", "verify", "--store", store)

    tried("full store", *render)
    tried("verify", *verify)
    mount(store, "remount", "size=64m")
    ballast = fill(temporary)
    tried("full temporary folder", *render)
    tried("verify", *verify)
    ballast.unlink()
    ballast = fill(out)
    tried("full export", *render, "--export", out)
    ballast.unlink()
    mount(store, "remount", "ro")
    tried("read-only store", *render, "seeds=2")
    mount(store, "remount", "rw")
    tried("room everywhere", *render, "--export", out)
    tried("verify", *verify)
    closed = folder / "closed"
    mount(closed, "size=64k")
    mount(closed / "open", "size=64k")
    mount(closed, "remount", "ro")
    tried("a folder within a closed one", *render, "--export", closed / "open")
    tried("a new folder within a closed one", *render, "seeds=2", "--export", closed / "new")
    tried("videos", "table", "videos", "--store", store)
    tried("exported", "status", "--store", store, next(out.glob("*.mp4")))


def curate_and_publish(folder: Path) -> None:
    """Three films of two shots each; last, how many frames all published clips have."""
    footage, store, temporary = folder / "footage", folder / "curated", folder / "temporary"
    for i in range(3):
        video(footage / f"{i}.mp4", (2 * i + 1, 2 * i + 2), 20)
    mount(store, "size=200k")
    mount(temporary, "remount", "size=64m")
    words = ("--store", store, "infra.executor=local")
    curate = ("curate", footage, *words, *KEEP_ALL)
    publish, verify = ("publish", "set", *words), ("catalog", "verify", "--store", store)

    tried("curate, full store", *curate)
    tried("verify", *verify)
    mount(store, "remount", "size=64m")
    tried("curate, room everywhere", *curate)
    ballast = fill(temporary)
    tried("publish, full temporary folder", *publish)
    ballast.unlink()
    ballast = fill(store, 150_000)
    tried("publish, full store", *publish)
    tried("verify", *verify)
    ballast.unlink()
    tried("publish, room everywhere", *publish)
    tried("verify", *verify)
    clips = list((store / "datasets").rglob("*.mp4"))
    print(json.dumps(["frames", sum(len(shown(clip)) for clip in clips), ""]), flush=True)


if __name__ == "__main__":
    os.umask(0o077)
    run(Path(sys.argv[1]))
    curate_and_publish(Path(sys.argv[1]))
