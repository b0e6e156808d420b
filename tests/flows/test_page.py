"""The page and the table that the demo ends with, of a small render and a small curation in one store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from flows.cli.demo import print_results
from flows.cli.main import main
from flows.run.session import existing_catalog
from flows.views.page import write_page
from tests.data_prep.little import shot, video, write

HOSTILE = "<script>alert(1)</script> a red circle & a star"


@pytest.fixture(scope="module")
def store(campaign_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    campaign = {**yaml.safe_load(campaign_file.read_text()), "prompts": [HOSTILE, "a blue square"], "seeds": 1}
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    video(folder / "footage" / "moves.mp4", (1, 2))
    write(folder / "footage" / "still <b>.mp4", [shot(3, 1)[0]] * 30)
    for words in (["curate", folder / "footage"], ["render", folder / "campaign.yaml", "--executor", "local"]):
        result = CliRunner().invoke(main, [*(str(w) for w in words), "--store", str(folder / "store")])
        assert result.exit_code == 0, result.output
    return folder / "store"


@pytest.fixture(scope="module")
def page(store: Path) -> str:
    return Path(write_page(existing_catalog(str(store)), "demo.html")).read_text()


def test_every_video_and_every_clip_is_inside(page):
    assert page.count("<video") == page.count('src="data:video/mp4;base64,') == 2
    assert page.count('src="data:image/jpeg;base64,') == 3
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is fetched"


def test_every_measured_score_is_shown_and_no_list_of_them_decides(page):
    assert page.count("blockiness ") == 3
    assert "clip_id " not in page


def test_verdicts_have_their_reasons(page):
    assert page.count('<span class="tag kept">') == 2
    assert page.count('<span class="tag rejected">') == 1
    assert "motion is " in page
    assert "wanted &gt;= 0.001" in page


def test_text_from_outside_is_escaped(page):
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; a red circle &amp; a star" in page
    assert "still &lt;b&gt;.mp4" in page


def test_the_table_counts_what_was_made(store, capsys):
    print_results(existing_catalog(str(store)))
    said = capsys.readouterr().out
    assert re.search(r"verdicts +3 +2 kept, 1 rejected", said)
    assert re.search(r"decode +2 +1 ", said)
