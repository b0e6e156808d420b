"""`rushes review`: the page served on this machine, until it is interrupted."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence

import click
import uvicorn

from flows.render.reviews import login_name
from flows.review.app import make_app
from flows.review.board import Board
from flows.review.guard import Door, host_name
from stages.core.errors import BadInput
from stages.core.ledger.catalog import Catalog

HOST = "127.0.0.1"
LOCAL = ("127.0.0.1", "localhost", "::1")


def allowed_names(host: str, names: Sequence[str]) -> tuple[str, ...]:
    """The hosts under which a page that is bound to `host` may be asked for; the first is that of the opening URL.

    Raises BadInput for a name that is none, and where the page listens on all addresses under no name.
    """
    plain = []
    for name in names:
        if not (found := host_name(f"[{name}]" if name.count(":") > 1 else name)):
            raise BadInput(f"--name {name}: this is no host name")
        plain.append(found)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return tuple(dict.fromkeys([*plain, host.lower()]))
    if address.is_loopback:
        return tuple(dict.fromkeys([*plain, str(address), *LOCAL]))
    if not address.is_unspecified:
        return tuple(dict.fromkeys([*plain, str(address)]))
    if not plain:
        raise BadInput(f"--host {host} listens on every address: say with --name HOST under which name people open it")
    return tuple(dict.fromkeys([*plain, *LOCAL]))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises BadInput for an address that is taken, or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
        return found
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "it is in use; give another --port" if taken else getattr(error, "strerror", None) or error
        raise BadInput(f"cannot listen on {host}, port {port}: {reason}") from None


def make_server(board: Board, door: Door, who: str) -> uvicorn.Server:
    """The web server of a board. It logs no request: the opening URL holds the token."""
    config = uvicorn.Config(
        make_app(board, door, who), log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve_review(catalog: Catalog, host: str, port: int, names: Sequence[str], who: str) -> int:
    """Serve until interrupted. Raises BadInput before that where it cannot."""
    from flows.display.terminal import say

    allowed = allowed_names(host, names)
    board = Board(catalog)
    with listen(host, port) as listening:
        door = Door(allowed, listening.getsockname()[1])
        board.keep_up()
        if not board.version:
            raise BadInput(f"nothing of {catalog.storage.url} can be shown")
        say(f"{len(board.changes(0)['takes']):,} takes of {catalog.storage.url}; Ctrl-C ends this. Open:")
        click.echo(door.url)  # not by `say`, which hides tokens
        make_server(board, door, who or login_name()).run(sockets=[listening])
    return 0
