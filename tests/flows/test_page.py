"""The page and the table that the demo ends with, of a small render and a small curation in one store."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from click.testing import CliRunner

from flows.cli.demo import print_results
from flows.cli.main import main
from flows.curate.report import build_report
from flows.run.session import existing_catalog
from flows.views.page import export_page, write_page
from flows.views.tables import read_table
from tests.core.browser import chromium
from tests.core.devtools import WIDTHS, axe_core, tab
from tests.data_prep.little import shot, video, write

HOSTILE = "<script>alert(1)</script> a red circle & a star"
LONG = "a_blue_square_" * 12
PLAYS = """Promise.all([...document.querySelectorAll('.clip video')].map(async video => {
  const still = video.readyState === 0;
  await video.play();
  await new Promise(shown => video.requestVideoFrameCallback(shown));
  return [video.videoWidth, video.videoHeight, still && video.currentTime < video.duration];
}))"""


@pytest.fixture(scope="module")
def store(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    campaign = {**yaml.safe_load(campaign_file.read_text()), "prompts": [HOSTILE, LONG], "seeds": 1}
    campaign |= {"tags": ["hero", "<i>"], "negative_prompt": "blur"}
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    video(folder / "footage" / "moves.mp4", (1, 2))
    write(folder / "footage" / "still <b>.mp4", [shot(3, 1)[0]] * 30)
    publish = ["publish", "set", "publish.val_share=0"]
    render = ["render", folder / "campaign.yaml", "--executor", "local"]
    for words in (["curate", folder / "footage"], publish, render):
        result = CliRunner().invoke(main, [*(str(w) for w in words), "--store", str(folder / "store")])
        assert result.exit_code == 0, result.output
    return folder / "store"


@pytest.fixture(scope="module")
def page(store: Path) -> str:
    return Path(write_page(existing_catalog(str(store)), "demo.html")).read_text()


def test_every_video_and_every_clip_is_inside(page):
    assert page.count("<video") == page.count('<video src="data:video/mp4;base64,') == 4
    assert page.count('preload="none" poster="data:image/jpeg;base64,') == 2, "what is published plays, once asked to"
    assert page.count('<img src="data:image/jpeg;base64,') == 1, "of the others there is a still"
    assert "2 of the clips play here; the others are not in a published dataset" in page
    assert not re.search(r'(src|href|poster)="(?!data:)', page), "nothing is fetched"


def test_every_measured_score_is_shown_and_no_list_of_them_decides(page):
    assert page.count("blockiness ") == 3
    assert "clip_id " not in page


def test_verdicts_have_their_reasons(page):
    assert page.count('<span class="tag kept">') == 2
    assert page.count('<span class="tag rejected">') == 1
    assert re.search(r"motion is [0-9.e-]+, must be at least 0\.001", page)


def test_text_from_outside_is_escaped(page):
    assert page.count("tags: hero, &lt;i&gt;") == page.count("not: blur") == 2
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; a red circle &amp; a star" in page
    assert "still &lt;b&gt;.mp4" in page


def test_the_table_counts_what_was_made(store, capsys):
    print_results(existing_catalog(str(store)))
    said = capsys.readouterr().out
    assert re.search(r"verdicts +3 +kept 2, rejected 1", said)
    assert re.search(r"decode +2 +1 ", said)


def test_any_run_has_a_page_and_heavy_videos_lie_beside_it(store, tmp_path, monkeypatch):
    run = read_table(existing_catalog(str(store)), "runs").to_pylist()[-1]["run_id"]
    result = CliRunner().invoke(main, ["page", "--store", str(store), "--run", run, "--out", str(tmp_path / "a.html")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.html").read_text().count("data:video/mp4") == 2
    assert "clips of" not in (tmp_path / "a.html").read_text(), "the page of one render shows no curation"
    monkeypatch.setattr("flows.views.page.INSIDE_MB", 0)
    export_page(existing_catalog(str(store)), tmp_path / "b c.html")
    names = re.findall(r'<video src="([^"]+)"', (tmp_path / "b c.html").read_text())
    assert len(names) == 4
    assert all((tmp_path / unquote(name)).read_bytes()[4:8] == b"ftyp" for name in names)
    inside = Path(write_page(existing_catalog(str(store)), "heavy.html"))
    names = re.findall(r'<video src="([^"]+)"', inside.read_text())
    assert len(names) == 4
    assert all((store / unquote(name)).read_bytes()[4:8] == b"ftyp" for name in names), "the store's own files"
    inside.unlink()


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium here")
def test_pages_fit_their_window_and_can_be_read_by_all(store, page, tmp_path):
    """Light and dark, on a phone, a tablet and a desktop; what axe-core calls serious or critical is a fault."""
    axe = axe_core()
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "report.html").write_text(build_report(existing_catalog(str(store))))
    (tmp_path / "bad.html").write_text('<p style="width: 2000px; color: #ccc">text</p>')
    with tab(tmp_path / "profile") as browser:
        for name in ("page.html", "report.html"):
            for width, dark in itertools.product(WIDTHS, (False, True)):
                browser.open(tmp_path / name, width, dark)
                found = browser.overflow()
                assert (found["by"], found["elements"]) == (0, []), (name, width)
                assert not axe or browser.faults(axe) == [], (name, width, dark)
                if name == "page.html":
                    assert browser.evaluate(PLAYS) == [[224, 128, True]] * 2, "clips of a dataset play"
        browser.open(tmp_path / "bad.html", 400, False)
        assert browser.overflow()["by"] > 1500, "the check sees what does not fit"
        assert not axe or "color-contrast" in str(browser.faults(axe)), "and what cannot be read"
    if axe is None:
        pytest.skip("every page fits; axe-core is not here: npm install axe-core, or name it in RUSHES_AXE")
