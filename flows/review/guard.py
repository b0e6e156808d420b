"""Who may ask the review page for anything: only a browser that has opened its URL, under a name that is allowed.

A page on this machine can be reached by every other page that the same browser has open. So every request needs the
cookie that the opening URL is exchanged for, and a `Host` that is allowed (another name may lead here by DNS); what
writes also needs the page's own `Origin` and a body of JSON, which no form of another site can send.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 1 << 20
READING = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
OPENING = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Rushes</title>
<meta http-equiv="refresh" content="0; url=/"></head><body><p><a href="/">Open the takes</a></p></body></html>"""
"""After a redirect SameSite=Strict withholds the cookie where another site led here; this page is our own."""
STRANGER = "Open the URL that `rushes review` has printed: it ends in ?token=..."


@dataclass(frozen=True)
class Door:
    """What opens the page.

    names: the hosts under which it may be asked for, without port, in lower case; port: where it listens; token: what
    its opening URL holds; session: what this is exchanged for.
    """

    names: tuple[str, ...]
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """The URL that opens the page."""
        name = f"[{self.names[0]}]" if ":" in self.names[0] else self.names[0]
        return f"http://{name}:{self.port}/?token={quote(self.token)}"

    @property
    def cookie(self) -> str:
        """The cookie's name. Cookies do not tell ports apart, so that the name has to."""
        return f"rushes-review-{self.port}"


class Guard:
    """The application behind its door: refuses in one sentence, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What is no HTTP (a web socket) gets nothing."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = self.refusal(scope)
        await (answer or self.app)(scope, receive, _with_headers(send))

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further; None for one that does."""
        headers, method = Headers(scope=scope), scope["method"]
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self.door.names:
            return PlainTextResponse(
                "This page is not served under that name; start `rushes review` with --name NAME", 421
            )
        if method in READING and scope["path"] == "/" and (given := _token(scope)):
            return self._let_in() if _same(given, self.door.token) else PlainTextResponse(STRANGER, 401)
        if not any(_same(value, self.door.session) for value in _cookies(headers.getlist("cookie"), self.door.cookie)):
            return PlainTextResponse(STRANGER, 401)
        return None if method in READING else _refused_write(headers, hosts[0])

    def _let_in(self) -> Response:
        answer = HTMLResponse(OPENING)
        answer.set_cookie(self.door.cookie, self.door.session, path="/", httponly=True, samesite="strict")
        return answer


def host_name(host: str) -> str:
    """The name in a `Host`, without its port, in lower case; "" for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return ""
    plain = not (parts.path or parts.query or parts.fragment or "@" in host)
    return (parts.hostname or "").rstrip(".") if plain else ""


def _refused_write(headers: Headers, host: str) -> Response | None:
    origins = headers.getlist("origin")
    if len(origins) != 1 or origins[0] not in (f"http://{host}", f"https://{host}"):
        return PlainTextResponse("This was not asked for by the page itself", 403)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return PlainTextResponse("The body must be JSON", 415)
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return PlainTextResponse("The body needs a length", 411)
    return PlainTextResponse("The body is too large", 413) if int(length) > LARGEST_BODY else None


def _token(scope: Scope) -> str:
    found = parse_qs(scope["query_string"].decode("latin-1"))
    return str(found.get("token", [""])[0])


def _cookies(headers: Iterable[str], name: str) -> list[str]:
    found = []
    for header in headers:
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(header)
        except CookieError:
            continue
        found += [jar[name].value] if name in jar else []
    return found


def _same(given: str, wanted: str) -> bool:
    """Compared in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
