"""What must not be said: passwords and signatures in addresses, values of keys. Everything that a run writes down or
shows passes through here.

Addresses lose user, password, query and fragment (`bare`). Of settings that may hold a key only the names are said
(`without_values`), and their values are remembered, so that a library's message cannot repeat them (`cleared`).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from stages.core.reach.harmless import for_terminal

HIDDEN = "***"
SHORTEST = 6
"""Shorter values are no secrets, and hiding them would spoil every message."""
NO_SECRETS = frozenset(
    {"endpoint_url", "anon", "region", "region_name", "use_ssl", "project", "account_name", "requester_pays", "proto"}
)
"""Options of file systems that say where and how, and hold no key. Addresses in them are shown bare."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>`]*")
QUERY = re.compile(r"[?#].*", re.DOTALL)
PAIRS = re.compile(r"\?[^/]*=.*|#.*", re.DOTALL)
"""The query of an address on an object store: there a `?` by itself is a part of a name, or of a pattern."""
WEB = ("http", "https", "ftp", "ftps", "webdav", "webhdfs", "ws", "wss")

_known: set[str] = set()
_lock = threading.Lock()


# -- addresses ---------------------------------------------------------------------------------------------------------


def bare(address: str) -> str:
    """An address without user, password, query and fragment. What is no address, a path say, stays as it is."""
    scheme, mark, rest = address.partition("://")
    kind = re.split("[^a-z0-9+.]", scheme.lower())[-1]
    if not mark or kind == "file":
        return address
    rest = (QUERY if kind in WEB else PAIRS).sub("", rest)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def secret_parts(address: str) -> Iterator[str]:
    """What `bare` takes away: password, query, and the values in the query."""
    if bare(address) == address:
        return
    _, _, rest = address.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at:
        yield from (user, user.partition(":")[2] or user)
    query = re.split("[?#]", rest, maxsplit=1)
    if len(query) == 2:
        yield query[1]
        yield from (pair.partition("=")[2] for pair in re.split("[&#]", query[1]))


def bare_in(text: str) -> str:
    """A text in which every address is bare."""
    return ADDRESS.sub(lambda found: bare(found[0]), text) if "://" in text else text


# -- settings ----------------------------------------------------------------------------------------------------------


def without_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The names of options that may hold keys; the values only of those that cannot."""
    return {name: _shown_option(str(name), value) for name, value in options.items()}


def _shown_option(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_values(value)
    if name not in NO_SECRETS:
        return HIDDEN
    return bare_in(value) if isinstance(value, str) else value


def secret_values(options: Mapping[str, Any]) -> Iterator[str]:
    """The values that `without_values` hides, as text."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from secret_values(value)
        elif str(name) in NO_SECRETS:
            yield from secret_parts(str(value))
        elif isinstance(value, list | tuple):
            yield from (str(v) for v in value)
        elif value is not None and not isinstance(value, bool):
            yield str(value)


def shown(value: Any, literal: Iterable[str] = ()) -> Any:
    """Plain data in which every text has its addresses bare; what stands under the keys in `literal` is left alone."""
    if isinstance(value, str):
        return bare_in(value)
    if isinstance(value, Mapping):
        return {shown(k): v if k in literal else shown(v, literal) for k, v in value.items()}
    return [shown(v, literal) for v in value] if isinstance(value, list | tuple) else value


# -- messages ----------------------------------------------------------------------------------------------------------


def remember(values: Iterable[str]) -> None:
    """Keep these values out of everything that this process says from now on."""
    found = {v for value in values for v in _spellings(value) if len(v) >= SHORTEST}
    with _lock:
        _known.update(found)


def known() -> tuple[str, ...]:
    """What is remembered: handed to workers, which remember it too."""
    with _lock:
        return tuple(_known)


def _spellings(value: str) -> set[str]:
    """A value as it may stand in a message: in an address, in a `repr`, in JSON."""
    plain = {value, unquote(value)}
    return plain | {spell(v) for v in plain for spell in (quote, quote_plus, lambda x: json.dumps(x)[1:-1])}


def cleared(text: str) -> str:
    """A message for people or for the catalog, without anything secret."""
    for value in sorted(known(), key=len, reverse=True):
        if value in text:
            text = text.replace(value, HIDDEN)
    return bare_in(text)


# -- logs --------------------------------------------------------------------------------------------------------------


def guard_output() -> None:
    """From now on nothing that this process logs, and no traceback that ends it, holds a secret. Once is enough."""
    if getattr(logging.getLogRecordFactory(), "clears", False):
        return
    make = logging.getLogRecordFactory()

    def cleared_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        _clear(record)
        return record

    cleared_record.clears = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(cleared_record)
    sys.excepthook = _say_failure
    threading.excepthook = lambda args: _say_failure(args.exc_type, args.exc_value, args.exc_traceback)


def _clear(record: logging.LogRecord) -> None:
    try:
        said = record.getMessage()
    except (TypeError, ValueError):  # the arguments do not fit: the handler says so
        return
    clean = cleared(said)
    if record.name.partition(".")[0] == "rushes":  # ours are printed as they are; those of libraries may have colours
        clean = for_terminal(clean)
    if clean != said:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0]:
        record.exc_text = cleared("".join(traceback.format_exception(*record.exc_info)).rstrip())


def _say_failure(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    sys.stderr.write(for_terminal(cleared("".join(traceback.format_exception(kind, error, where)))))
