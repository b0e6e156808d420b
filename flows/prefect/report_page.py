"""The body of the `report` deployment: the page of a curation, and what it says in an artifact."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.prefect.artifacts import bullets, show_ending
from flows.prefect.endings import Ending
from flows.prefect.flow_run import logs_shown, refused
from flows.prefect.reporting import reporting
from flows.run.session import existing_catalog
from flows.run.storage import is_option, read_options
from stages.core.errors import BadInput

log = logging.getLogger("rushes")


def make_page(
    store: Callable[[], str], curation: str, out: Callable[[], str], overrides: Callable[[], list[str]]
) -> State[None]:
    """Write the report of a curation. The places are asked for here, where what is wrong with them is a message."""
    from flows.curate.report import build_report, write_report

    try:
        with reporting() as contact, logs_shown():
            file = out()
            catalog = existing_catalog(store(), read_options(filter(is_option, overrides())))
            place = write_report(catalog, build_report(catalog, curation), Path(file).expanduser() if file else None)
            contact.send(create_markdown_artifact, bullets([f"report: {place}"]), key="report-result")
            show_ending("report", Ending(places={"page": place}))
            log.info("report: %s", place)
    except BadInput as bad:
        return refused(bad)
    return Completed(message=f"report: {place}")
