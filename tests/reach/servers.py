"""A web server on 127.0.0.1 for tests: files by path, redirects, and a note of everything that was asked of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """`asked` holds (path with query, Authorization) of each request; `host` is HOST:PORT."""

    def __init__(self, files: Mapping[str, bytes], redirects: Mapping[str, str], needs: str) -> None:
        self.files, self.redirects, self.needs = dict(files), dict(redirects), needs
        self.asked: list[tuple[str, str]] = []
        self.host = ""

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}{self.host}{path}"


@contextmanager
def site(
    files: Mapping[str, bytes] | None = None, redirects: Mapping[str, str] | None = None, needs: str = ""
) -> Iterator[Site]:
    """Serve these files while this lasts; `needs` is what a request must hold in its query to be answered."""
    served = Site(files or {}, redirects or {}, needs)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            served.asked.append((self.path, self.headers.get("authorization") or ""))
            if path in served.redirects:
                self.send_response(302)
                self.send_header("location", served.redirects[path])
                self.end_headers()
                return
            data = served.files.get(path)
            if data is None or served.needs not in query:
                self.send_response(404 if data is None else 403)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
