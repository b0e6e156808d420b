"""The review page in a real browser: people filter, play, compare and choose; it fits its window, all can read it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from flows.render.reviews import choose, read_reviews, standings
from flows.run.session import existing_catalog
from tests.core.browser import chromium
from tests.core.devtools import WIDTHS, Tab, axe_core, tab
from tests.flows.review_store import render, served

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium here")
HOSTILE = "<script>alert(1)</script> & <b>bold</b> " + "endless" * 20
COUNT = "document.getElementById('count').textContent"
CURRENT = "document.querySelector('.card.current')?.take.id"
LOADED = "document.querySelectorAll('video[src]').length"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """302 takes: 150 seeds of two prompts, and two of one that fails."""
    prompts = [HOSTILE, {"prompt": "a red circle", "tags": ["hero"]}, {"prompt": "a broken one", "seeds": 2}]
    return render(tmp_path_factory.mktemp("review"), prompts, 150)


def fill(browser: Tab, element: str, value: str) -> None:
    """Set a field as a person would, and wait until the list follows."""
    browser.evaluate(
        f"(() => {{ const e = document.getElementById('{element}'); e.value = {json.dumps(value)}; "
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_a_person_filters_plays_compares_and_chooses(store, tmp_path):
    catalog = existing_catalog(str(store))
    with served(store) as door, tab(tmp_path / "profile") as browser:
        browser.dress(1400, False)
        browser.visit(door.url, loads=2)
        browser.until("document.querySelectorAll('.card').length > 10")
        assert browser.evaluate("location.search") == "", "the token does not stay in the address"
        assert browser.evaluate(COUNT).startswith("302 takes, 0 approved")
        assert browser.evaluate("document.querySelector('.line.group b').textContent") == HOSTILE
        assert browser.evaluate("document.querySelectorAll('.group b *, main script').length") == 0, (
            "texts are no markup"
        )

        # Filter, by text and tag, by score.
        fill(browser, "f-text", "RED circle")
        fill(browser, "f-tag", "hero")
        browser.until(f"{COUNT}.startsWith('150 of 302')")
        fill(browser, "f-metric", "sharpness")
        fill(browser, "f-max", "102")
        browser.until(f"{COUNT}.startsWith('3 of 302')")
        takes = browser.evaluate("[...document.querySelectorAll('.card')].map(c => c.take.id)")

        # Play: what the person is at plays, and no other.
        browser.press("j")
        assert browser.evaluate(CURRENT) == takes[0]
        browser.until("document.querySelector('.card.current video')?.currentTime > 0")
        assert browser.evaluate(LOADED) == 1

        # Approve two, reject one, star it, take the star back; a note.
        browser.press("a")
        browser.until(f"{CURRENT} === {takes[1]!r}")
        browser.press("a")
        browser.until(f"{CURRENT} === {takes[2]!r}")
        browser.press("r")
        browser.until(f"{COUNT}.includes(', 2 approved')")
        browser.until("document.querySelector('.card.current .foot').textContent.includes('rejected')")
        browser.press("s")
        browser.until("document.querySelector('.card.current .foot').textContent.includes('★')")
        browser.press("u")
        browser.until("!document.querySelector('.card.current .foot').textContent.includes('★')")
        browser.press("n")
        browser.evaluate("document.getElementById('n-text').value = 'six <i>fingers</i>'")
        browser.evaluate("document.getElementById('n-keep').click()")
        browser.until("document.querySelector('.card.current .foot').textContent.includes('✎')")
        now = standings(catalog)
        assert [now[t].verdict for t in takes] == ["approve", "approve", "reject"]
        assert (now[takes[2]].note, now[takes[2]].star) == ("six <i>fingers</i>", False)
        rows = [r for r in read_reviews(catalog) if r["take_id"] == takes[2]]
        assert [r["choice"] for r in rows] == ["reject", "star", "unstar", "note"]
        assert {r["who"] for r in rows} == {"ada"}
        assert [r["supersedes"] for r in rows[1:]] == [[r["id"]] for r in rows[:-1]], "each names the one before"

        # Somebody else chooses at the same time: a conflict, on the page too.
        choose(catalog, [takes[0]], "reject", "bob", supersedes={takes[0]: []})
        browser.until(f"{COUNT}.includes('1 conflict')")
        browser.evaluate(f"[...document.querySelectorAll('.card')].find(c => c.take.id === {takes[0]!r}).open.click()")
        browser.until("document.getElementById('t-body').textContent.includes('your choice settles it')")
        browser.until("document.getElementById('t-more').textContent.includes('made by worker')")
        said = browser.evaluate("document.getElementById('t-body').textContent")
        assert "ada: approved" in said
        assert "bob: rejected" in said
        browser.press("a")
        browser.until(f"!{COUNT}.includes('conflict')")
        assert standings(catalog)[takes[0]].verdict == "approve"
        browser.until("!!document.querySelector('#t-more button')")
        browser.evaluate("document.querySelector('#t-more button').click()")
        browser.until("document.getElementById('more').open")
        assert "seeds:\n  - 150\n" in browser.evaluate("document.getElementById('m-text').textContent")
        browser.evaluate("for (const d of document.querySelectorAll('dialog')) d.close()")

        # Compare: the videos run together.
        browser.evaluate("for (const c of document.querySelectorAll('.card input')) c.click()")
        browser.evaluate("document.getElementById('b-compare').click()")
        browser.until("[...document.querySelectorAll('#c-body video')].every(v => v.readyState >= 3)")
        assert browser.evaluate(LOADED) == 3, "the grid has let go of its own"
        browser.evaluate("document.getElementById('c-on').click()")
        browser.until(
            "(([first, ...others]) => others.every(v => Math.abs(v.currentTime - first.currentTime) < 0.01))"
            "([...document.querySelectorAll('#c-body video')])"
        )
        browser.evaluate("document.getElementById('compare').close()")


def test_only_what_is_in_view_is_in_the_page(store, tmp_path):
    with served(store) as door, tab(tmp_path / "profile") as browser:
        browser.dress(1400, False)
        browser.visit(door.url, loads=2)
        browser.until("document.querySelectorAll('.card').length > 10")
        browser.evaluate("document.getElementById('f-play').click()")
        browser.until(f"{LOADED} === 12")
        for part in (0.5, 1, 0):
            browser.evaluate(f"scrollTo(0, {part} * document.documentElement.scrollHeight)")
            browser.until(
                "[...document.querySelectorAll('.card')].some(c => c.getBoundingClientRect().top < innerHeight)"
            )
            browser.until(f"document.querySelectorAll('.card').length < 90 && {LOADED} <= 12 && {LOADED} > 0")
        height = browser.evaluate("document.documentElement.scrollHeight")
        assert height > 302 / 6 * 150, "the bar tells how much there is"


def test_the_page_fits_its_window_and_can_be_read_by_all(store, tmp_path):
    axe = axe_core()
    views = {
        "grid": "0",
        "filters": "document.getElementById('b-filters').click(), document.getElementById('campaigns-box').open = true",
        "take": "document.querySelector('.card .open').click()",
        "more": "document.querySelector('#t-more button').click()",
        "compare": "document.querySelectorAll('dialog[open]').forEach(d => d.close()), "
        "[...document.querySelectorAll('.card input:enabled')].slice(0, 2).forEach(e => e.click()), "
        "document.getElementById('b-compare').click()",
    }
    ready = {
        "grid": "document.querySelectorAll('.card').length > 3",
        "filters": "document.querySelector('.campaign')",
        "take": "document.querySelector('#t-more pre')",
        "more": "document.getElementById('more').open",
        "compare": "document.querySelectorAll('#c-body video').length === 2",
    }
    with served(store) as door, tab(tmp_path / "profile") as browser:
        for width, dark in itertools.product(WIDTHS, (False, True)):
            browser.dress(width, dark)
            browser.visit(door.url, loads=2)
            for name, script in views.items():
                browser.until(ready["grid"])
                browser.evaluate(script)
                browser.until(f"!!({ready[name]})")
                found = browser.overflow()
                assert (found["by"], found["elements"]) == (0, []), (name, width)
                assert not axe or browser.faults(axe) == [], (name, width, dark)
    if axe is None:
        pytest.skip("every view fits; axe-core is not here: npm install axe-core, or name it in RUSHES_AXE")
