"""Pages in a real browser: Chromium, driven through its DevTools, lays them out, and axe-core looks for faults."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.core.browser import FLAGS, PLAIN, WAIT_S, chromium

AXE = "axe-core/axe.min.js"
AXE_PLACES = ("node_modules", "/usr/local/lib/node_modules", "/usr/lib/node_modules")
WIDTHS, HEIGHT = (400, 800, 1400), 900
OVERFLOW = """(() => {
  const page = document.documentElement, width = page.clientWidth;
  const scrolls = e => e && e !== document.body &&
    (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const out = [...document.body.querySelectorAll('*')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && (box.right > width + 1 || box.left < -1) && !scrolls(e.parentElement);
  });
  return {by: page.scrollWidth - width, elements: out.slice(0, 5).map(e => e.outerHTML.slice(0, 120))};
})()"""


def axe_core() -> Path | None:
    """axe-core's script: the file that RUSHES_AXE names, or what npm has installed here; None where there is none."""
    named = os.environ.get("RUSHES_AXE")
    places = [Path(named)] if named else [Path(place) / AXE for place in AXE_PLACES]
    return next((path for path in places if path.is_file()), None)


class Tab:
    """One tab of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.calls, self.events = connection, 0, list[str]()
        self.call("Page.enable")

    def call(self, method: str, **arguments: Any) -> Any:
        """What a method of DevTools answers. Raises AssertionError where it fails."""
        self.calls += 1
        self.connection.send(json.dumps({"id": self.calls, "method": method, "params": arguments}))
        while (message := self._next()).get("id") != self.calls:
            pass
        assert "error" not in message, message
        return message["result"]

    def _next(self) -> Any:
        message = json.loads(self.connection.recv(timeout=WAIT_S))
        self.events.append(message.get("method", ""))
        return message

    def evaluate(self, script: str) -> Any:
        """The value of a script, awaited where it is a promise. Raises AssertionError where it throws."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, page: Path, width: int, dark: bool) -> None:
        """Load a page at a width in pixels, light or dark."""
        self.dress(width, dark)
        self.visit(page.resolve().as_uri())

    def dress(self, width: int, dark: bool) -> None:
        """Give the window a width in pixels, light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=HEIGHT, deviceScaleFactor=1, mobile=False)

    def visit(self, url: str, loads: int = 1) -> None:
        """Load a page by its URL; loads: how many pages are loaded until it is there, where one leads to the next."""
        self.events.clear()
        answer = self.call("Page.navigate", url=url)
        assert not answer.get("errorText"), answer
        while self.events.count("Page.loadEventFired") < loads:
            self._next()

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """The value of a script once it is true. Raises AssertionError where that takes longer."""
        end = time.monotonic() + seconds
        while not (found := self.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return found

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            named = {"key": key, "text": key} if len(key) == 1 else {"key": key}
            self.call("Input.dispatchKeyEvent", type="keyDown", **named)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def overflow(self) -> Any:
        """By how many pixels the page is wider than its window, and which elements are outside of it."""
        return self.evaluate(OVERFLOW)

    def faults(self, axe: Path) -> list[str]:
        """What axe-core finds that is serious or critical: the rule, and where."""
        self.evaluate(axe.read_text() + ";0")
        found = self.evaluate("axe.run(document, {resultTypes: ['violations']}).then(found => found.violations)")
        return [
            f"{fault['id']} ({fault['impact']}): {[n['target'] for n in fault['nodes'][:5]]} {fault['help']}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]

    def picture(self, to: Path) -> None:
        """A PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        to.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, whose profile lies in that folder."""
    browser = chromium()
    assert browser
    command = [browser, *FLAGS, *PLAIN, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    log = (profile.parent / "browser.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        with connect(_address(profile / "DevToolsActivePort"), max_size=None) as connection:
            yield Tab(connection)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def _address(port_file: Path) -> str:
    """The address of the first tab, once the browser has one."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, IndexError, StopIteration):
            port = port_file.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_S) as answer:
                tabs = json.loads(answer.read())
            return str(next(t for t in tabs if t["type"] == "page")["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise AssertionError("the browser has no tab")
