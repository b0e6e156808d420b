"""A small server that speaks the chat completions protocol on 127.0.0.1, and misbehaves as it is told."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np


@dataclass
class Reply:
    """What is sent back: a text with its finish reason, or a status with a body, after some seconds."""

    text: str | None = ""
    finish: str = "stop"
    status: int = 200
    after_s: float = 0.0
    body: dict[str, Any] | None = None
    refusal: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request as the server saw it. level is the mean grey level of its pictures, 0 to 255."""

    prompt: str
    images: int
    level: float
    body: dict[str, Any]
    authorization: str


def mean_level(urls: list[str]) -> float:
    """The mean grey level of JPEG data URLs."""
    pictures = [np.frombuffer(base64.b64decode(u.split(",", 1)[1]), np.uint8) for u in urls]
    return float(np.mean([cv2.imdecode(p, cv2.IMREAD_GRAYSCALE).mean() for p in pictures])) if urls else 0.0


class Endpoint:
    """Requests in order of arrival, and how many were under way at a time."""

    def __init__(self, answer: Callable[[Asked, int], Reply]) -> None:
        self.answer, self.asked = answer, list[Asked]()
        self.now, self.most, self.lock = 0, 0, threading.Lock()
        self.url = ""

    def take(self, body: dict[str, Any], authorization: str) -> Reply:
        content = body["messages"][0]["content"]
        text = next(p["text"] for p in content if p["type"] == "text")
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            seen = sum(a.prompt == text for a in self.asked)
            urls = [p["image_url"]["url"] for p in content if p["type"] == "image_url"]
            asked = Asked(text, len(urls), mean_level(urls), body, authorization)
            self.asked.append(asked)
        try:
            reply = self.answer(asked, seen)
            time.sleep(reply.after_s)
            return reply
        finally:
            with self.lock:
                self.now -= 1


@contextmanager
def serving(answer: Callable[[Asked, int], Reply]) -> Iterator[Endpoint]:
    """An endpoint whose replies `answer(request, how often the same was asked before)` decides."""
    endpoint = Endpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = endpoint.take(body, self.headers.get("Authorization", ""))
            message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
            whole = {
                "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
            }  # fmt: skip
            data = json.dumps(reply.body if reply.body is not None else whole).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):  # the client gave up: a time-out is being tested
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
