"""Small steps that do as their rows say: they succeed, fail, hang, or kill the process that they run in."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.core.step import ARTIFACT, Inputs, PermanentError, Rejected, Row, Step

log = logging.getLogger("rushes.toys")

WAIT_S = 900


class Obey(Step):
    """Does what row["do"] says, then hashes the row's number many times over and keeps the result as a file."""

    kind = "toy"
    writes = pa.schema([("n", pa.int64()), ("threads", pa.string()), *ARTIFACT])

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """seconds: how long a row takes; salt: makes another step of it; setup_do: what happens in `setup`."""

        seconds: float = 0.0
        setup_seconds: float = 0.0
        salt: str = ""
        setup_do: str = ""

    @classmethod
    def inputs(cls, config: Any) -> Inputs:
        return Inputs(depends=("n",), carries=("do",))

    def setup(self) -> None:
        time.sleep(self.config.setup_seconds)
        _do(self.config.setup_do)

    def process(self, row: Row) -> Row:
        time.sleep(self.config.seconds)
        _do(row.get("do", ""))
        data = f"{self.config.salt}/{row['n']}".encode() * 100
        return {"n": row["n"], "threads": os.environ.get("OMP_NUM_THREADS", ""), **self.workspace.put(data, ".txt")}


class Sibling(Obey):
    """The same as another step."""


def _do(what: str) -> None:
    if what == "raise":
        raise RuntimeError("the model did not like it")
    if what == "bad":
        raise PermanentError("no such thing")
    if what == "reject":
        raise Rejected("motion", 0.1, ">=", 0.5)
    if what.startswith("meet:"):
        _meet(Path(what.removeprefix("meet:")), str(os.getpid()), 2)
    if what.startswith("hang:"):
        _meet(Path(what.removeprefix("hang:")), str(os.getpid()), 99)
    if what.startswith("mark:"):
        Path(what.removeprefix("mark:"), "mark").touch()
    if what.startswith("last:"):
        _await_mark(Path(what.removeprefix("last:")), 12)
    if what == "full":
        full = os.open("/dev/full", os.O_WRONLY)
        os.write(full, b"x")
    if what == "memory":
        raise MemoryError("toy")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(600)
    if what == "talk":
        log.info("about to work")
        logging.getLogger("some.library").info("too quiet to be sent")
        warnings.warn("a library warns", stacklevel=1)
    if what.startswith("allocate:"):
        block = bytearray(int(what.split(":")[1]) << 20)
        for i in range(0, len(block), 4096):
            block[i] = 1
        time.sleep(30)


def _meet(folder: Path, mark: str, count: int) -> None:
    """Leave a mark in the folder, and wait for as many there."""
    (folder / mark).touch()
    limit = time.monotonic() + WAIT_S
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def _await_mark(folder: Path, rows: int) -> None:
    """The last of so many rows ends once there is a mark in the folder."""
    (folder / uuid.uuid4().hex).touch()
    if len([p for p in folder.iterdir() if p.name != "mark"]) == rows:
        limit = time.monotonic() + WAIT_S
        while not (folder / "mark").exists():
            assert time.monotonic() < limit, "waited in vain"
            time.sleep(0.05)


class ReturnsALock(Step):
    """Breaks the contract: its row is not what it declares."""

    writes = pa.schema([("lock", pa.string())])

    def process(self, row: Row) -> Row:
        return {"lock": threading.Lock()}


def meet(settings, stop, say):
    """Workers that add up their numbers, speak, and wait to be stopped."""
    import torch
    import torch.distributed as dist

    total = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(total)
    say(settings["say"])
    deadline = time.monotonic() + 900
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.05)
    return {"world": dist.get_world_size(), "sum": float(total), "stopped": stop(), "folder": os.getcwd()}


def refuse(settings, stop, say):
    """Workers that cannot work with what they are given."""
    from stages.core.errors import BadInput

    raise BadInput("there is no such thing")


def echo(settings, stop, say):
    """A group of one that says where it runs and what it was given."""
    say(settings["say"])
    return {"settings": dict(settings), "stopped": stop(), "pid": os.getpid()}
