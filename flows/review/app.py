"""The review page's application: the page, its data as JSON, videos by the id of a shown artifact, and choices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response

from flows.display.html import page_environment
from flows.render.reviews import choose
from flows.review.board import Board
from flows.review.details import details
from flows.review.further import campaign_text, grouped, more_seeds, prompt_of, split_settings
from flows.review.guard import Door, Guard
from flows.review.media import answer
from flows.words import command
from stages.core.errors import BadInput
from stages.core.full_disk import CannotWrite
from stages.core.step import Row

HERE = Path(__file__).parent
STATIC = {path.name: path for path in (HERE / "static").iterdir() if path.suffix in (".css", ".js")}
TYPES = {".css": "text/css", ".js": "text/javascript"}
MOST_TAKES = 2000
NOT_FOUND = "There is no such file"


class Seen(BaseModel):
    """A take that is chosen, with the reviews of it that the person has seen standing."""

    model_config = ConfigDict(extra="forbid")
    id: str
    heads: list[str] = Field(max_length=100)


class Choosing(BaseModel):
    """One choice for some takes. who: "" is the login name of whoever started the page."""

    model_config = ConfigDict(extra="forbid")
    takes: list[Seen] = Field(min_length=1, max_length=MOST_TAKES)
    choice: str
    note: str = ""
    who: str = ""


class Asking(BaseModel):
    """More of some takes: `promote` them through all stages; new `seeds`; the same seed with other `settings`."""

    model_config = ConfigDict(extra="forbid")
    takes: list[str] = Field(min_length=1, max_length=100_000)
    what: str
    seeds: int = 4
    settings: str = ""


def make_app(board: Board, door: Door, who: str) -> Guard:
    """The application, behind its door. who: who chooses, where a page does not say."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    store = board.catalog.storage
    page = page_environment(HERE).get_template("review.html.j2")

    @app.get("/", response_class=HTMLResponse)
    def show() -> str:
        return page.render(store=store.url, who=who, export=command("page", store.url).strip("`"))

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        path = STATIC.get(name)
        if path is None:
            return PlainTextResponse(NOT_FOUND, 404)
        return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/api/takes")
    def takes(since: int = 0) -> Row:
        board.keep_up()
        return board.changes(since)

    @app.get("/api/campaigns")
    def campaigns() -> list[Row]:
        return board.campaigns()

    @app.get("/api/take/{take_id}")
    def take(take_id: str) -> Row:
        return details(board, take_id)

    @app.get("/media/{video_id}")
    def media(video_id: str, request: Request) -> Response:
        return _file(video_id, lambda medium: medium.uri, request)

    @app.get("/poster/{video_id}")
    def poster(video_id: str, request: Request) -> Response:
        return _file(video_id, lambda medium: medium.poster, request)

    def _file(video_id: str, which: Callable[[Any], str], request: Request) -> Response:
        medium = board.medium(video_id)
        if medium is None or not which(medium):
            return PlainTextResponse(NOT_FOUND, 404)
        return answer(store, which(medium), request.headers.get("range", ""))

    @app.post("/api/choose")
    def chosen(asked: Choosing) -> Row:
        ids = [t.id for t in asked.takes]
        board.records(ids)
        seen = {t.id: t.heads for t in asked.takes}
        choose(board.catalog, ids, asked.choice, asked.who or who, asked.note, seen)
        board.reread_reviews()
        return {"takes": board.records(ids)}

    @app.post("/api/campaign")
    def campaign(asked: Asking) -> Row:
        return further(board, asked)

    _add_refusals(app)
    return Guard(app, door)


def further(board: Board, asked: Asking) -> Row:
    """A campaign file that asks for more of some takes. Raises BadInput."""
    found = [board.unit(take) for take in asked.takes]
    record, unit = found[0]
    if any(r.row["scope"] != record.row["scope"] for r, _ in found):
        raise BadInput("these takes are of several campaigns; choose one campaign in the filters first")
    if asked.what == "promote":
        prompts = grouped([u for _, u in found], board.catalog)
        return campaign_text(board.catalog, record, prompts, "approved", whole=True)
    if asked.what == "seeds":
        prompts = more_seeds(unit, board.units_of(record.row["scope"]), asked.seeds, board.catalog)
        return campaign_text(board.catalog, record, prompts, "more seeds", whole=False)
    if asked.what == "setting":
        of_prompt, of_steps = split_settings(asked.settings)
        prompts = [{**prompt_of(unit, board.catalog), **of_prompt, "seeds": [unit["seed"]]}]
        return campaign_text(board.catalog, record, prompts, "another setting", whole=False, changed=of_steps)
    raise BadInput(f"there is no request {asked.what[:40]!r}; promote, seeds and setting are the ones there are")


def _add_refusals(app: FastAPI) -> None:
    """What is wrong with a request, as one sentence."""

    @app.exception_handler(BadInput)
    def bad(request: Request, error: BadInput) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(CannotWrite)
    def full(request: Request, error: CannotWrite) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 507)

    @app.exception_handler(RequestValidationError)
    def unclear(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)
