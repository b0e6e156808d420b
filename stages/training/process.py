"""What a run has to do with the process that it is in: its device, the noise of libraries, and signals to stop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from diffusers.utils import logging as diffusers_logging

from stages.families.engine.device import find_device as device_here


def hush() -> None:
    """No progress bars of the libraries between the lines of a run."""
    for logging in (diffusers_logging, transformers.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def find_device(name: str) -> torch.device:
    """The device that a config names; on several GPUs, that of this process. Raises BadInput for cuda without a GPU."""
    device = device_here(name)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if device.type == "cuda" else device


def device_name(device: torch.device) -> str:
    """What the work ran on, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"


@contextlib.contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Within it, SIGTERM and Ctrl-C call `stop`, so that the run can save first. Only the main thread may listen;
    elsewhere whoever runs this stops it."""

    def heard(*_: Any) -> None:
        stop()

    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(n, heard) for n in numbers]
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
