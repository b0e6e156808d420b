"""The ffmpeg binary: which one it is, and one run of it that is fed as the data comes."""

from __future__ import annotations

import errno
import functools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.core.errors import BadInput

TIMEOUT_S = 600
"""Seconds after which ffmpeg counts as stuck: it took nothing, or did not end."""


@functools.cache
def ffmpeg_binary() -> str:
    """The ffmpeg in use: IMAGEIO_FFMPEG_EXE, else the imageio-ffmpeg wheel's, else the one on PATH.

    The wheel comes before PATH so that every machine with the same packages writes the same bytes. Raises BadInput.
    """
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise BadInput("there is no ffmpeg: install the imageio-ffmpeg package, or put ffmpeg on PATH") from None


@functools.cache
def ffmpeg_version() -> str:
    """The version that the binary says it has, such as `7.0.2-static`."""
    first = subprocess.run([ffmpeg_binary(), "-version"], capture_output=True, text=True, check=True).stdout
    words = first.split()
    return words[2] if words[:2] == ["ffmpeg", "version"] else first.splitlines()[0]


class Feed:
    """One run of ffmpeg that writes `target` from what it is fed on its standard input.

    A context: at its end ffmpeg is waited for, and ended where the body raised. Raises RuntimeError with what ffmpeg
    said where it fails or is stuck, OSError (ENOSPC) where its disk is full.
    """

    def __init__(self, command: list[str], target: Path) -> None:
        self.command, self.target = command, target
        self._stuck = self._ended = False
        self._said = bytearray()

    def __enter__(self) -> Feed:
        # In a group of its own: a Ctrl-C in the terminal is for the run, which decides what becomes of its rows.
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
        )
        # Read as it comes, since a full pipe would hold ffmpeg; and not in a file, since the disk may be what is full.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def _listen(self) -> None:
        pipe: Any = self._process.stderr
        with pipe:
            while part := pipe.read1(4096):
                self._said += part if len(self._said) < 4000 else b""

    def write(self, data: Any) -> None:
        """Feed some bytes, or a contiguous array. Returns when ffmpeg has taken them."""
        assert self._process.stdin is not None
        try:
            with self._watched():
                self._process.stdin.write(data)
        except BrokenPipeError:
            self._end()
            raise

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._process.kill()
        try:
            self._end()
        except RuntimeError:
            if kind is None:
                raise

    def _end(self) -> None:
        assert self._process.stdin is not None
        with self._watched():
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            status = self._process.wait()
            self._listener.join()
        if self._ended:  # a failed write has said it
            return
        self._ended = True
        said = self._said.decode(errors="replace").strip()[:500]  # the cause comes first
        if status or not self.target.is_file():
            if os.strerror(errno.ENOSPC) in said:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.target.parent))
            stuck = f"it stood still for {TIMEOUT_S} s and was ended" if self._stuck else ""
            raise RuntimeError(f"ffmpeg failed ({status}): {said or stuck}")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Within it, ffmpeg is ended after TIMEOUT_S."""

        def end() -> None:
            self._stuck = True
            self._process.kill()

        timer = threading.Timer(TIMEOUT_S, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def run_ffmpeg(command: list[str], target: Path, data: bytes = b"") -> None:
    """One run that writes `target`. Raises as `Feed` does."""
    with Feed(command, target) as feed:
        if data:
            feed.write(data)
