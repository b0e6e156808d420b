"""What a real browser shows: Chromium plays a video from a page on 127.0.0.1 and a canvas tells its pixels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--force-color-profile=srgb",
    "--autoplay-policy=no-user-gesture-required",
)
PLAIN = ("--disable-gpu",)
EXACT = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
"""With a graphics processor made of software: colours are computed in floats, as on a desktop."""
WAIT_S = 900
PAGE = """<!doctype html><video id=v muted playsinline src=video.mp4></video><script>
const video = document.getElementById('v'), points = POINTS;
const send = what => fetch('answer', {method: 'POST', body: JSON.stringify(what)});
video.onerror = () => send({error: video.error.message || 'code ' + video.error.code});
video.requestVideoFrameCallback(() => {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const context = canvas.getContext('2d', {colorSpace: 'srgb'});
  context.drawImage(video, 0, 0);
  send({size: [canvas.width, canvas.height],
        pixels: points.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3))});
});
video.play().catch(error => send({error: String(error)}));
</script>"""


IMAGE_PAGE = """<!doctype html><img id=v src=video.mp4><script>
const image = document.getElementById('v'), points = POINTS;
const send = what => fetch('answer', {method: 'POST', body: JSON.stringify(what)});
image.onerror = () => send({error: 'no picture'});
image.decode().then(() => {
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d', {colorSpace: 'srgb'});
  context.drawImage(image, 0, 0);
  send({size: [canvas.width, canvas.height],
        pixels: points.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3))});
}, error => send({error: String(error)}));
</script>"""


def chromium() -> str | None:
    """The browser on this machine, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def shown_pixels(
    video: bytes,
    points: list[tuple[int, int]],
    profile: Path,
    graphics: Sequence[str],
    kind: str = "video/mp4",
    size: tuple[int, int] | None = None,
) -> list[list[int]]:
    """The RGB that Chromium shows of the first frame that it plays, at each (x, y). kind: the media type, also of a
    picture; size: the width and height that it must have. Raises AssertionError."""
    browser = chromium()
    assert browser
    answer: dict[str, Any] = {}
    come = threading.Event()
    page = (PAGE if kind.startswith("video/") else IMAGE_PAGE).replace("POINTS", json.dumps(points)).encode()

    class Handler(BaseHTTPRequestHandler):
        files: ClassVar = {"/": ("text/html", page), "/video.mp4": (kind, video)}

        def do_GET(self) -> None:
            kind, data = self.files.get(self.path, ("text/plain", b""))
            self.send_response(200 if data else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            answer.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            come.set()

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [browser, *FLAGS, *graphics, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/"]
    log = (profile.parent / "browser.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        assert come.wait(WAIT_S), f"no answer from {browser}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        server.shutdown()
        server.server_close()
        log.close()
    assert "error" not in answer, answer
    assert size is None or answer["size"] == list(size), answer
    pixels: list[list[int]] = answer["pixels"]
    return pixels
