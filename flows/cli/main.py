"""The `rushes` command. Heavy libraries are imported by the command that needs them, when it needs them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from flows.cli.storage_options import storage_options
from flows.cli.telemetry import be_quiet

STORE = click.option("--store", required=True, metavar="URL", help="Folder or fsspec URL of the store.")
DRY_RUN = click.option("--dry-run", "dry_run", flag_value="plan", help="Show what would run, and run nothing.")
SETTINGS = click.option("--settings", "dry_run", flag_value="settings", help="Print all settings, and run nothing.")
Options = dict[str, Any]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def limit_option(text: str) -> Callable[[Any], Any]:
    """`--limit` of a command, with what it limits."""
    return click.option("--limit", type=click.IntRange(min=1), metavar="N", help=text)


def executor_option(default: str) -> Callable[[Any], Any]:
    """`--executor` of a command whose config says this where the option is not given."""
    text = f"Run steps in this process, one row at a time (local), or on Ray. Default: {default}."
    return click.option("--executor", type=click.Choice(["local", "ray"]), help=text)


def configs_in(folder: str, prefix: str = "") -> str:
    """The names of the configs in a folder below configs/, as a command takes them."""
    return ", ".join(prefix + path.stem for path in sorted((CONFIGS / folder).glob("*.yaml")))


def keys(example: str, names: str = "") -> str:
    """What KEY=VALUE is, and which configs there are, for the end of a help text."""
    text = (
        f"KEY=VALUE changes a setting, such as {example}. --settings prints them all; docs/settings.md explains them."
    )
    return f"{names}\n\n{text}" if names else text


UNTIL = click.option(
    "--until", metavar="STEP", default="", help="Stop after this step of the plan; --dry-run lists them."
)
ONLY = click.option("--only", metavar="STEP[,STEP]", default="", help="Run only these steps.")
RETRY_ERRORS = click.option(
    "--retry-errors",
    is_flag=True,
    help="Also retry permanent failures, and transient ones that have used up their attempts.",
)
RESET = click.option(
    "--reset", is_flag=True, help="Reset the deployments to their file, and discard changes made on the server."
)
RUN = click.option("--run", "run_id", default="", metavar="ID", help="Use this run, not the latest.")


def friendly(command: Callable[..., int]) -> Callable[..., None]:
    """Turn bad input into one sentence and exit status 2, and what a command returns into its exit status.

    Ctrl-C and SIGTERM end it wherever it is; a run is asked to stop first. What a run has left at work does not keep
    the process.
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from flows.display.terminal import say
        from flows.run.stopping import Interrupted, StopOnSignal, end_with
        from stages.core.errors import BadInput, Stopped
        from stages.core.full_disk import as_cannot_write
        from stages.core.running.leaving import left_at_work

        try:
            with StopOnSignal():
                status = command(*args, **kwargs) or 0
        except BadInput as error:
            say(f"rushes: {error}", err=True)
            status = 2
        except Stopped as stopped:
            say(f"rushes: stopped: {stopped}", err=True)
            status = 3
        except Interrupted as interrupted:
            status = interrupted.exit_status
        except Exception as error:
            store = str(kwargs.get("store") or "")
            if (found := as_cannot_write(error, Path(store) if store and "://" not in store else None)) is None:
                raise
            say(f"rushes: {found}", err=True)
            status = 3
        if left_at_work():
            end_with(status)
        sys.exit(status)

    return wrapped


def say_it_starts(dry_run: str | None) -> None:
    """The first line of a command that runs steps, before what takes seconds to import. Not of a call from Python."""
    if not dry_run and click.get_current_context().find_root().info_name != main.name:
        click.echo("  0 s: reading the settings and the store", err=True)


class Rushes(click.Group):
    """The commands. Ctrl-C before one listens for signals itself ends with the exit status that it has later, too."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


@click.group(cls=Rushes, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rushes")
def main() -> None:
    """Turn footage into a curated training set, and prompts into finished videos."""
    from stages.core.reach.secrets import guard_output

    be_quiet()
    guard_output()


@main.command(epilog=keys("base.sampling.steps=8", f"Campaigns included: {configs_in('campaigns')}."))
@click.argument("words", nargs=-1, metavar="[CAMPAIGN|PROMPTS] [KEY=VALUE]...")
@click.option("--prompt", multiple=True, metavar="TEXT", help="A prompt; repeat the option for more.")
@click.option(
    "--seed", type=click.IntRange(min=0), multiple=True, metavar="N", help="A seed; repeat the option for more."
)
@STORE
@UNTIL
@ONLY
@click.option(
    "--export",
    "export_to",
    metavar="FOLDER",
    help="Write one file per finished take into FOLDER; other files in it are left alone.",
)
@click.option(
    "--wait", is_flag=True, help="Where takes wait for a review, wait for it too, and go on, until none is left."
)
@click.option(
    "--redecide", is_flag=True, help="Have the gates decide again. What went on before and is not chosen now, stops."
)
@DRY_RUN
@SETTINGS
@limit_option("Render at most N takes.")
@executor_option("ray")
@RETRY_ERRORS
@friendly
def render(words: tuple[str, ...], **options: Any) -> int:
    """Render prompts to videos. Give a CAMPAIGN (a YAML file, or a name from the list below), a file of prompts (.csv,
    .jsonl, .txt, ...), or --prompt TEXT. For previews of the base takes alone, see "Stop after the base latents" in
    docs/recipes.md."""
    say_it_starts(options["dry_run"])
    from flows.cli.run import render_command

    return render_command(words, **options)


@main.command(epilog=keys("select.motion.min=0.02"))
@click.argument("words", nargs=-1, required=True, metavar="SOURCE... [KEY=VALUE]...")
@STORE
@click.option(
    "--config",
    default="curate",
    metavar="FILE",
    help="A YAML file of settings that override configs/curate.yaml, or the name of an included one: "
    f"{configs_in('curate', 'curate/')} (adds scores from models).",
)
@UNTIL
@ONLY
@DRY_RUN
@SETTINGS
@limit_option("Curate at most N sources.")
@executor_option("local")
@RETRY_ERRORS
@friendly
def curate(words: tuple[str, ...], **options: Any) -> int:
    """Turn footage into clips with scores and captions. SOURCEs are files, folders, globs or manifests, on local disk
    or on any fsspec URL."""
    say_it_starts(options["dry_run"])
    from flows.cli.run import curate_command

    return curate_command(words, **options)


@main.command(
    epilog=keys(
        "model.checkpoint=FOLDER, or model.checkpoint=promoted:NAME@STORE for a checkpoint that "
        "`rushes train CONFIG promote=NAME` has named",
        f"Configs included: {configs_in('evaluate', 'evaluate/')}.",
    )
)
@click.argument("words", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@STORE
@click.option("--out", required=True, metavar="FILE.json", help="Write the figures to this file.")
@click.option("--prompts", default="", metavar="FILE.txt", help="Render and judge these prompts, one per line.")
@click.option("--videos", default="", metavar="FOLDER", help="Judge the videos in this folder; render none.")
@click.option(
    "--captions",
    default="",
    metavar="FILE.csv",
    help="CSV file with the columns `file` and `caption`, for the files in --videos.",
)
@click.option("--reference", default="", metavar="FOLDER", help="Compare with the videos in this folder: FVD and FID.")
@DRY_RUN
@SETTINGS
@limit_option("Judge at most N videos.")
@executor_option("ray")
@RETRY_ERRORS
@friendly
def evaluate(words: tuple[str, ...], **options: Any) -> int:
    """Measure how often videos show what prompts say. CONFIG is a name from the list below, or a YAML file;
    without it, 200 prompts that were held out from training are rendered with two seeds each."""
    say_it_starts(options["dry_run"])
    from flows.cli.evaluate import evaluate_command

    return evaluate_command(words, **options)


@main.command(epilog=keys("max_steps=500", f"Configs included: {configs_in('train')}."))
@click.argument("words", nargs=-1, required=True, metavar="CONFIG [KEY=VALUE]...")
@STORE
@DRY_RUN
@SETTINGS
@friendly
def train(words: tuple[str, ...], **options: Any) -> int:
    """Train one part of a checkpoint. CONFIG is a name from the list below, or a YAML file. After a stop
    (exit status 3), the same command continues."""
    say_it_starts(options["dry_run"])
    from flows.cli.train import train_command

    return train_command(words, **options)


@main.command(epilog=keys("publish.video.fps=16"))
@click.argument("words", nargs=-1, required=True, metavar="NAME [KEY=VALUE]...")
@STORE
@click.option(
    "--config",
    default="publish",
    metavar="FILE",
    help="A YAML file of settings that override configs/publish.yaml.",
)
@click.option("--run", "run_id", default="", metavar="ID", help="The curation to publish from; default: the latest.")
@DRY_RUN
@SETTINGS
@limit_option("Publish at most N clips.")
@executor_option("local")
@RETRY_ERRORS
@friendly
def publish(words: tuple[str, ...], **options: Any) -> int:
    """Freeze the kept clips as a version of a dataset. Dataset NAME gets one video file per clip, an index, captions,
    splits and a dataset card."""
    say_it_starts(options["dry_run"])
    from flows.cli.publish import publish_command

    return publish_command(words, **options)


@main.command()
@STORE
@RUN
@click.option("--out", metavar="FILE", help="Write the page to this file; default: report.html in the store.")
@friendly
@storage_options()
def report(store: str, run_id: str, out: str | None, storage: Options) -> int:
    """Write an HTML page about a curation. It shows which clips were kept, why the others were rejected, and what other
    thresholds would do."""
    from flows.curate.report import report_command

    return report_command(store, run_id, Path(out) if out else None, storage)


@main.command()
@STORE
@RUN
@click.option("--out", metavar="FILE.html", help="Write the page to this file; default: page.html in the store.")
@friendly
@storage_options()
def page(store: str, run_id: str, out: str | None, storage: Options) -> int:
    """Write an HTML page of videos and clips. It shows every video of the latest render with its prompt and lineage,
    and every clip of the latest curation with its scores."""
    from flows.cli.store import make_page

    return make_page(store, run_id, Path(out) if out else None, storage)


@main.command()
@STORE
@RUN
@click.option("--all", "everything", is_flag=True, help="Show the rows of every run, not only the latest.")
@click.option(
    "--out",
    metavar="FILE",
    help="Write to FILE instead of the terminal. Its suffix sets the format: .parquet, .csv or .jsonl, and for cuts "
    "and clips also .edl or .otio. With the text {source} in its name, write one file for each source.",
)
@friendly
@storage_options("NAME")
def table(word: str, store: str, run_id: str, everything: bool, out: str | None, storage: Options) -> int:
    """Show a table of results. NAME is one of runs, takes, artifacts, videos, decisions, reviews, sources, signals,
    frames, cuts, clips, scores, verdicts, captions, datasets, uncut, judgements, checkpoints."""
    from flows.cli.store import show_table

    return show_table(word, store, run_id, everything, Path(out) if out else None, storage)


@main.command()
@STORE
@friendly
@storage_options("[ID|FILE|SHA256]")
def status(word: str, store: str, storage: Options) -> int:
    """Show how far along runs are, or where a result came from. Without an argument, it shows the
    progress of the latest runs. With an ID, an exported video or the SHA256 of a file, it shows what that was made
    from. With the id or the path of a source, it shows its clips and their verdicts."""
    from flows.cli.store import show_lineage, show_status

    return show_lineage(word, store, storage) if word else show_status(store, storage)


@main.command()
@STORE
@click.option("--note", default="", metavar="TEXT", help="A note about the takes.")
@click.option("--who", default="", metavar="NAME", help="Who chooses; default: your login name.")
@friendly
@storage_options("TAKE... CHOICE", many=True)
def choose(words: list[str], note: str, who: str, store: str, storage: Options) -> int:
    """Choose takes, for gates with `review: true`. TAKE is the id of a take, or its beginning; CHOICE is one of
    approve, reject, clear (takes either back), star, unstar and note. The same render command then goes on with what
    is approved."""
    from flows.cli.choose import choose_command

    return choose_command(words, store, who, note, storage)


@main.command()
@STORE
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8422, show_default=True, help="Port of the page; 0: a free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="A further name under which the page may be opened, such as that of this machine. Can be given several times.",
)
@click.option(
    "--who", default="", metavar="NAME", help="Who chooses; default: your login name. This can also be set on the page."
)
@friendly
@storage_options()
def review(store: str, port: int, host: str, names: Sequence[str], who: str, storage: Options) -> int:
    """Look at takes and choose, in the browser. The page shows how campaigns go on, plays and compares takes, and keeps
    what you approve and reject in the store. Ctrl-C ends it. It prints the URL that opens it, which holds a secret: who
    has it can look and choose."""
    from flows.cli.review import review_command

    return review_command(store, host, port, names, who, storage)


@main.group()
def catalog() -> None:
    """Check and maintain a store."""


@catalog.command()
@STORE
@click.option("--repair", is_flag=True, help="Remove orphaned and temporary files older than a day.")
@friendly
@storage_options()
def verify(store: str, repair: bool, storage: Options) -> int:
    """Check all tables and files. Every table must be readable, and every file must have the right hash."""
    from flows.cli.store import verify_store

    return verify_store(store, repair, storage)


@catalog.command()
@STORE
@friendly
@storage_options()
def compact(store: str, storage: Options) -> int:
    """Merge small Parquet files. Safe while runs are in progress."""
    from flows.cli.store import compact_store

    return compact_store(store, storage)


@main.command()
@click.option("--store", default="demo", show_default=True, metavar="URL", help="Store for the results of the demo.")
@executor_option("local for the curation, ray for the rendering")
@friendly
def demo(store: str, executor: str | None) -> int:
    """Curate and render a small example. It takes the included clips and a campaign of six prompts, and writes one page
    that shows both."""
    from flows.cli.demo import run_demo

    return run_demo(store, executor)


@main.command()
@click.option(
    "--port", type=int, default=4200, show_default=True, metavar="N", help="Port of the local server on 127.0.0.1."
)
@click.option(
    "--runs", type=click.IntRange(min=1), default=2, show_default=True, metavar="N", help="Run at most N flows at once."
)
@RESET
@friendly
def serve(port: int, runs: int, reset: bool) -> int:
    """Start a Prefect server for runs of Rushes. On it you can start and schedule curate, report, publish, render,
    evaluate and train. If PREFECT_API_URL names a server, that one is used instead."""
    from flows.prefect.serve import serve_deployments

    return serve_deployments(port, runs, reset)


@main.command()
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file like infra/prefect.yaml, which is used by default.",
)
@RESET
@friendly
def deploy(file: Path | None, reset: bool) -> int:
    """Send the deployments to a Prefect server. That is the server of PREFECT_API_URL, for workers. A work pool is made
    if there is none. What was set on the server (schedules, parameters, limits) is kept, and differences from the file
    are listed."""
    from flows.prefect.deploy import deploy_command

    return deploy_command(file, reset)


@main.command()
@click.argument("family", metavar="FAMILY")
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--variant", default="", metavar="NAME", help="Which kind of checkpoint, from the list above; default: the first."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the weights.")
@friendly
def tiny(family: str, folder: str, variant: str, seed: int) -> int:
    """Write a tiny untrained checkpoint of a model family. It goes into FOLDER; with it you can try a campaign
    without the real weights.

    \b
    FAMILY       --variant
    svd          image-to-video
    wan          t2v, i2v, flf2v, ti2v, ti2v-pictures, vace, two-experts, i2v-two-experts
    skyreels     diffusion-forcing
    animatediff  text-to-video, controlnet, sparsectrl
    ltx2         2.0, 2.3
    whole        hunyuan-video, skyreels-v2

    The family whole stands for any other video pipeline of diffusers, which runs as one step. Its variant
    skyreels-v2 is the checkpoint of the family skyreels, for use as one step.
    """
    from flows.cli.tiny import make_tiny

    return make_tiny(family, folder, variant, seed)


@main.command()
@click.option("--store", metavar="URL", help="Also check that this store can be written to.")
@friendly
@storage_options()
def doctor(store: str | None, storage: Options) -> int:
    """Check this installation. It shows what is there, what is missing, and what to do about it."""
    from flows.cli.doctor import examine

    return examine(store, storage)


if __name__ == "__main__":
    main()
