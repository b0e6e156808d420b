"""The flows that the UI starts and schedules. Their parameters are the form, their docstrings its help texts.

A form checks what a person gave, prepares the same run as the command line would, and shows how it ended. Module level
holds no lock, event or handle: Prefect may load this module by import path in a process of its own.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.prefect.flow_run import FLOW_OPTIONS, Form, run_form, task_runner
from flows.prefect.places import check_overrides, check_place, find_file
from flows.run.session import Prepared, prepare
from stages.core.errors import BadInput

FLOW: dict[str, Any] = {"task_runner": task_runner(), **FLOW_OPTIONS}


@flow(name="render", **FLOW)
def render(
    store: str,
    campaign: str = "",
    prompts: str = "",
    overrides: list[str] = [],  # noqa: B006
    export: str = "",
) -> State[None]:
    """Prompts to finished video: those of a campaign, or those that are written here.

    Args:
        store: The folder (an absolute path) or URL (s3://, gs://, az://) where results are kept. What it holds already is not made again.
        campaign: A name below configs/campaigns, or the absolute path of a campaign file. Empty where prompts are given below.
        prompts: Prompts, one per line, in place of those of the campaign.
        overrides: Settings to change, each like seeds=2, base.sampling.steps=8 or infra.executor=local.
        export: The folder (an absolute path) that gets one file per finished take, beside what is there. Empty for none.
    """  # noqa: E501

    form = Form(export=export)

    def prepared() -> Prepared:
        from flows.render.campaign import load_campaign
        from flows.render.export import check_export
        from flows.render.prompts import lines_of

        check_place("export", export)
        texts = lines_of(prompts)
        if not (campaign or texts):
            raise BadInput("give a campaign, or write prompts")
        own: dict[str, Any] = {"prompts": texts, "prompts_file": "", "name": "prompts"} if texts else {}
        files = [find_file("campaign", campaign, "campaigns")] if campaign else []
        form.checked = loaded = load_campaign(files, own, check_overrides(overrides), store)
        found = prepare(loaded, check_place("store", store))
        if export:
            delivery = loaded.delivery
            check_export(export, loaded.takes, found.catalog.storage, delivery.config.metadata, delivery)
        return found

    return run_form(prepared, form)


@flow(name="curate", **FLOW)
def curate(sources: list[str], store: str, config: str = "curate", overrides: list[str] = []) -> State[None]:  # noqa: B006
    """Footage to clips with scores, verdicts and captions.

    Args:
        sources: Files, folders, globs or manifests of footage: absolute paths, or any URL that fsspec opens.
        store: The folder (an absolute path) or URL (s3://, gs://, az://) where results are kept. What it holds already is not made again.
        config: A name below configs, or the absolute path of a config file.
        overrides: Settings to change, each like limit=10 or select.motion.min=0.002.
    """  # noqa: E501

    form = Form()

    def prepared() -> Prepared:
        from flows.curate.curation import load_curation

        places = [check_place("sources", source) for source in sources]
        form.checked = load_curation(places, find_file("config", config), {}, check_overrides(overrides))
        return prepare(form.checked, check_place("store", store))

    return run_form(prepared, form)


@flow(name="publish", **FLOW)
def publish(
    dataset: str,
    store: str,
    curation: str = "",
    config: str = "publish",
    overrides: list[str] = [],  # noqa: B006
) -> State[None]:
    """The kept clips of a curation to a frozen, versioned dataset: cut files, index, captions, splits, card.

    Args:
        dataset: The name of the dataset. Publishing other clips under the same name makes its next version.
        store: The folder (an absolute path) or URL of the store that was curated.
        curation: The id of the run to publish from, as the result of a curation shows it. Empty for the latest.
        config: A name below configs, or the absolute path of a config file.
        overrides: Settings to change, each like limit=10, publish.val_share=0.1 or publish.webdataset=true.
    """

    def prepared() -> Prepared:
        from flows.publish.publication import load_publication

        own = {"curation": curation} if curation else {}
        loaded = load_publication(dataset, find_file("config", config), own, check_overrides(overrides))
        return prepare(loaded, check_place("store", store), exists=True)

    return run_form(prepared)


@flow(name="report", **FLOW)
def report(store: str, curation: str = "", out: str = "") -> State[None]:
    """One HTML page about a curation: what was kept, why the rest was not, and what other thresholds would do.

    Args:
        store: The folder (an absolute path) or URL of the store that was curated.
        curation: The id of the run to report on, as the result of a curation shows it. Empty for the latest.
        out: The file (an absolute path) that gets the page. Empty for report.html in the store.
    """
    from flows.prefect.report_page import make_page

    return make_page(
        lambda: check_place("store", store), curation, lambda: check_place("out", out), lambda: check_overrides([])
    )


@flow(name="evaluate", **FLOW)
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

    Args:
        store: The folder (an absolute path) or URL (s3://, gs://, az://) where results are kept. What it holds already is not made again.
        out: The JSON file (an absolute path) that gets the figures.
        config: A name below configs, or the absolute path of a config file.
        prompts: A text file of prompts (an absolute path), one per line, in place of the config's.
        videos: A folder of videos (an absolute path) to judge in place of rendering.
        captions: A CSV file (an absolute path) with the columns file and caption, which says what those videos show.
        reference: A folder of videos (an absolute path) to compare with, as two sets.
        overrides: Settings to change, each like seeds=1 or base.sampling.steps=8.
    """  # noqa: E501
    form = Form(out=out)

    def prepared() -> Prepared:
        from flows.evaluate.evaluation import load_evaluation, settings_of_options
        from flows.evaluate.report import check_out

        places = {"prompts": prompts, "videos": videos, "captions": captions, "reference": reference}
        for name, place in {"store": store, "out": out, **places}.items():
            check_place(name, place)
        form.checked = load_evaluation(
            find_file("config", config), settings_of_options(**places), check_overrides(overrides)
        )
        check_out(out)
        return prepare(form.checked, store)

    return run_form(prepared, form)


@flow(name="train", **FLOW)
def train(config: str, store: str, overrides: list[str] = []) -> State[None]:  # noqa: B006
    """Train one stage: encode, train, evaluate, promote. Run it again to go on where it was stopped.

    Args:
        config: A name below configs/train, or the absolute path of a training config.
        store: The folder (an absolute path) or URL (s3://, gs://, az://) where the checkpoint is kept.
        overrides: Settings to change, each like max_steps=100, workers=2 or promote=best.
    """

    def prepared() -> Prepared:
        from flows.train.training import load_training

        file = find_file("config", config, "train")
        return prepare(load_training(file, check_overrides(overrides)), check_place("store", store))

    return run_form(prepared)
