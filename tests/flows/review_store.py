"""Stores with takes to look at, and the review page of one, served in this process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.render.campaign import load_campaign
from flows.review.board import Board
from flows.review.guard import Door
from flows.review.serve import LOCAL, listen, make_server
from flows.run.session import execute, existing_catalog, prepare

STEPS = {"film": {"use": "tests.flows.review_toys:Film"}, "check": {"use": "tests.flows.review_toys:Check"}}


def render(folder: Path, prompts: list[Any], seeds: int, *, name: str = "look", **more: Any) -> Path:
    """A store in which this campaign is rendered; more: further settings of it."""
    cascade = folder / "cascade.yaml"
    cascade.write_text(yaml.safe_dump({"steps": STEPS, "infra": {"executor": "local"}}, sort_keys=False))
    campaign = {"name": name, "prompts": prompts, "seeds": seeds, "cascade": str(cascade), **more}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(campaign))
    execute(prepare(load_campaign([folder / f"{name}.yaml"], {}, []), str(folder / "store")))
    return folder / "store"


@contextlib.contextmanager
def served(store: Path) -> Iterator[Door]:
    """The review page of a store on a free port of 127.0.0.1."""
    board = Board(existing_catalog(str(store)))
    board.keep_up()
    with listen("127.0.0.1", 0) as listening:
        door = Door(LOCAL, listening.getsockname()[1])
        server = make_server(board, door, "ada")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield door
        finally:
            server.should_exit = True
            thread.join()
