"""How smooth the review page is: thousands of takes in Chromium.

Prints one JSON line a figure: seconds until the first takes are seen, how long frames take while the whole page is
scrolled through, how many videos are loaded at most, and by how much the heap grows from the first full scroll to the
third. The same scroll over a page of plain boxes says how long frames take on this machine, as busy as it is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import tests.conftest  # noqa: F401  (lets a campaign name the steps of tests)
from tests.core.browser import chromium
from tests.core.devtools import tab
from tests.flows.review_store import render, served

SEEN = """new Promise(seen => {
  const look = () => {
    const picture = document.querySelector('.card img[src]');
    if (picture?.complete && picture.naturalWidth) seen(performance.now() / 1000); else requestAnimationFrame(look);
  };
  look();
})"""
FLING, READ, READ_FRAMES = 240, 40, 600
"""Pixels a frame, of somebody who looks for something and of somebody who looks at each take; frames of the latter."""
SCROLL = """new Promise(done => {
  const frames = [], STEP = %d, MOST = %d;
  let last = performance.now(), videos = 0, cards = 0;
  scrollTo(0, 0);
  const on = now => {
    frames.push(now - last);
    last = now;
    videos = Math.max(videos, document.querySelectorAll('video[src]').length);
    cards = Math.max(cards, document.querySelectorAll('.card').length);
    if (innerHeight + scrollY >= document.documentElement.scrollHeight - 2 || frames.length > MOST)
      return done({frames: frames.slice(2), videos, cards});
    scrollBy(0, STEP);
    requestAnimationFrame(on);
  };
  requestAnimationFrame(on);
})"""


PLAIN = """document.body.replaceChildren(...Array.from({length: 3000}, (_, i) => Object.assign(
  document.createElement('p'), {textContent: 'take ' + i, style: 'height: 60px; background: #eee'}))), 0"""


def main() -> None:
    """Render a store of quick takes into a temporary folder, open it, scroll."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--takes", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=10, help="takes of each prompt")
    parser.add_argument("--play", action="store_true", help="play what is in view")
    options = parser.parse_args()
    if chromium() is None:
        raise SystemExit("there is no Chromium here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = [f"a circle of the colour {i} moves on" for i in range(options.takes // options.seeds)]
        began = time.perf_counter()
        store = render(folder, prompts, options.seeds)
        print(json.dumps({"figure": "review_store", "seconds": round(time.perf_counter() - began, 1)}), flush=True)
        measure(store, folder, options.play)


def measure(store: Path, folder: Path, play: bool) -> None:
    """Open the page of a store and print the figures."""
    with served(store) as door, tab(folder / "profile") as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)
        browser.visit(door.url, loads=2)
        browser.evaluate(SEEN)
        first = []
        for _ in range(3):
            browser.visit(f"http://127.0.0.1:{door.port}/")
            first.append(browser.evaluate(SEEN))
        takes = browser.evaluate("document.getElementById('count').textContent")
        print(json.dumps({"figure": "review_first_view", "seconds": [round(s, 2) for s in first], "takes": takes}))
        if play:
            browser.evaluate("document.getElementById('f-play').click()")
        heaps = []
        for turn in range(3):
            found = browser.evaluate(SCROLL % (FLING, 10**6))
            heaps.append(heap(browser))
            print(json.dumps(frames_text("review_scroll", found) | {"turn": turn + 1}), flush=True)
        found = browser.evaluate(SCROLL % (READ, READ_FRAMES))
        print(json.dumps(frames_text("review_slow_scroll", found)), flush=True)
        browser.visit("about:blank")
        browser.evaluate(PLAIN)
        print(json.dumps(frames_text("review_plain_scroll", browser.evaluate(SCROLL % (FLING, 10**6)))), flush=True)
        growth = heaps[-1] / heaps[0] - 1
        print(
            json.dumps({"figure": "review_heap", "mb": [round(h / 1e6, 1) for h in heaps], "grown": round(growth, 3)})
        )


def frames_text(figure: str, found: dict) -> dict:
    """What a scroll came to."""
    frames = sorted(found["frames"])
    p95, median = (round(frames[int(len(frames) * part)], 1) for part in (0.95, 0.5))
    figures = {"figure": figure, "frames": len(frames), "p95_ms": p95, "median_ms": median}
    return {**figures, "worst_ms": round(frames[-1], 1), "videos": found["videos"], "cards": found["cards"]}


def heap(browser) -> float:
    """Bytes of JavaScript that are in use once everything that can go has gone."""
    browser.call("HeapProfiler.collectGarbage")
    return float(browser.call("Runtime.getHeapUsage")["usedSize"])


if __name__ == "__main__":
    main()
