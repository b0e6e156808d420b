"""A small curated store, and publishing from it, for tests."""

from __future__ import annotations

from pathlib import Path

from flows.curate.curation import load_curation
from flows.run.session import Outcome, execute, prepare
from stages.core.ledger.catalog import Catalog
from tests.data_prep.little import shot, video, write

KEEP_ALL = ["select.motion=null", "select.static_ratio=null", "select.sharpness=null", "select.short_side.min=null"]


def make_footage(folder: Path) -> Path:
    """Seven clips: four plain shots, two in one file without a key frame between them, and a copy of the first."""
    for seed in (1, 2, 3, 4):
        video(folder / f"s{seed}.mp4", (seed,))
    frames = [f for seed in (5, 6) for f in shot(seed, 30)]
    write(folder / "two.mp4", frames, sc_threshold=0, g=1000)
    write(folder / "copy.mkv", shot(1, 30), crf=34)
    return folder


def curate(store: Path, footage: Path, *words: str, **values: object) -> tuple[Catalog, Outcome]:
    """A whole curation in this process."""
    curation = load_curation([str(footage)], "curate", values, [*KEEP_ALL, *words, "infra.executor=local"])
    prepared = prepare(curation, str(store))
    return prepared.catalog, execute(prepared)


def publish(catalog: Catalog, *words: str, name: str = "set") -> tuple[dict, Outcome]:
    """Publish its kept clips: what was made, and how the run ended."""
    from flows.publish.publication import load_publication, published

    publication = load_publication(name, "publish", {}, [*words, "infra.executor=local"])
    prepared = prepare(publication, catalog.storage.url, exists=True)
    outcome = execute(prepared)
    return published(catalog, prepared.plan, outcome.run_id), outcome
