"""The flows that the UI starts and schedules. Their parameters are the form, their docstrings its help texts.

Module level holds no lock, event or handle: Prefect may load this module by import path in a process of its own.
"""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.prefect.artifacts import show_link
from flows.prefect.flow_run import FLOW_OPTIONS, closing_state, run_tasks, task_runner
from flows.prefect.form import check_form
from flows.run.session import Prepared, prepare
from flows.words import counted
from stages.core.errors import BadInput
from stages.core.reach.secrets import cleared

log = logging.getLogger("prefect.flow_runs")


@flow(name="render", flow_run_name="{campaign}", task_runner=task_runner(), **FLOW_OPTIONS)
def render(campaign: str, store: str, overrides: list[str] = [], export: str = "") -> State[None]:  # noqa: B006
    """Prompts to finished video.

    Relative paths count from the folder in which `rushes serve`, or the worker, was started.

    Args:
        campaign: A name below configs/campaigns, or the path of a campaign file.
        store: The folder or URL (s3://, gs://, az://) where results are kept. What it holds already is not made again.
        overrides: Settings to change, each like seeds=2, base.sampling.steps=8 or infra.executor=local.
        export: A folder that gets one mp4 per finished take, beside what is there. Empty for none.
    """
    from flows.render.campaign import load_campaign
    from flows.render.export import check_export

    try:
        check_form(store, overrides=overrides)
        loaded = load_campaign([campaign], {}, overrides, store)
        prepared = prepare(loaded, store)
        if export:
            check_export(export, loaded.takes, prepared.catalog.storage)
        outcome = run_tasks(prepared)
        if export:
            _export(prepared, outcome.run_id, Path(export))
    except BadInput as bad:
        return Failed(message=cleared(str(bad)))
    return closing_state(outcome)


def _export(prepared: Prepared, run_id: str, folder: Path) -> None:
    from flows.render.export import export
    from flows.render.provenance import described
    from flows.views.tables import read_table

    videos = read_table(prepared.catalog, "videos", run_id=run_id).to_pylist()
    paths = export(prepared.catalog.storage, videos, folder, about=described(prepared.plan))
    show_link("render", "export", folder.expanduser().resolve().as_uri(), f"{counted(len(paths), 'video')} in {folder}")


@flow(name="curate", flow_run_name="{store}", task_runner=task_runner(), **FLOW_OPTIONS)
def curate(sources: list[str], store: str, config: str = "curate", overrides: list[str] = []) -> State[None]:  # noqa: B006
    """Footage to clips with scores, verdicts and captions.

    Relative paths count from the folder in which `rushes serve`, or the worker, was started.

    Args:
        sources: Files, folders, globs or manifests of footage, on disk or on any URL that fsspec opens.
        store: The folder or URL (s3://, gs://, az://) where results are kept. What it holds already is not made again.
        config: A name below configs, or the path of a config file.
        overrides: Settings to change, each like limit=10 or select.motion.min=0.002.
    """
    from flows.curate.curation import load_curation

    try:
        check_form(store, *sources, overrides=overrides)
        outcome = run_tasks(prepare(load_curation(sources, config, {}, overrides), store))
    except BadInput as bad:
        return Failed(message=cleared(str(bad)))
    return closing_state(outcome)


@flow(name="evaluate", flow_run_name="{config}", task_runner=task_runner(), **FLOW_OPTIONS)
def evaluate(
    store: str,
    out: str,
    config: str = "evaluate",
    prompts: str = "",
    videos: str = "",
    captions: str = "",
    reference: str = "",
    overrides: list[str] = [],  # noqa: B006
) -> State[None]:
    """How often videos show what their prompts say.

    Relative paths count from the folder in which `rushes serve`, or the worker, was started.

    Args:
        store: The folder or URL (s3://, gs://, az://) where results are kept. What it holds already is not made again.
        out: The JSON file that gets the figures.
        config: A name below configs, or the path of a config file.
        prompts: A text file of prompts, one a line, in place of the config's.
        videos: A folder of videos to judge in place of rendering.
        captions: A CSV file with the columns file and caption, which says what those videos show.
        reference: A folder of videos to compare with, as two sets.
        overrides: Settings to change, each like seeds=1 or base.sampling.steps=8.
    """
    from flows.evaluate.evaluation import load_evaluation, settings_of_options
    from flows.evaluate.report import check_out, write_report

    try:
        check_form(store, prompts, overrides=overrides)
        path = check_out(out)
        loaded = load_evaluation(config, settings_of_options(prompts, videos, captions, reference), overrides)
        prepared = prepare(loaded, store)
        outcome = run_tasks(prepared)
        write_report(prepared.catalog, outcome.run_id, loaded, path)
    except BadInput as bad:
        return Failed(message=cleared(str(bad)))
    show_link("evaluate", "figures", path.resolve().as_uri(), f"figures in {out}")
    return closing_state(outcome)


@flow(name="train", flow_run_name="{config}", task_runner=task_runner(), **FLOW_OPTIONS)
def train(config: str, store: str, overrides: list[str] = []) -> State[None]:  # noqa: B006
    """Train one stage: encode, train, evaluate, promote. Run it again to go on where it was stopped.

    Relative paths count from the folder in which `rushes serve`, or the worker, was started.

    Args:
        config: A name below configs/train, or the path of a training config.
        store: The folder or URL (s3://, gs://, az://) where the checkpoint is kept.
        overrides: Settings to change, each like max_steps=100, workers=2 or promote=NAME.
    """
    from flows.train.training import checkpoint_lines, load_training

    try:
        check_form(store, overrides=overrides)
        prepared = prepare(load_training(config, overrides), store)
        outcome = run_tasks(prepared)
    except BadInput as bad:
        return Failed(message=cleared(str(bad)))
    if not outcome.exit_status:
        log.info("%s", "\n".join(checkpoint_lines(prepared.catalog, outcome.run_id)))
    return closing_state(outcome)
