"""What a run may open, and which key goes where: the operator's say, and what was named on the command line.

The rules come from configs/reach.yaml and from the file that RUSHES_REACH names, never from a campaign or a form. One
`Reach` is in force in a process; workers are handed the driver's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit

from stages.core.config_files import CONFIGS, nearest, read_yaml
from stages.core.errors import BadInput
from stages.core.reach.secrets import bare, bare_in, remember, secret_parts

VARIABLE = "RUSHES_REACH"
DEFAULT = CONFIGS / "reach.yaml"
KEYS = ("roots", "schemes", "hosts", "private_hosts", "endpoints")
OPENAI, OPENAI_URL, OPENAI_KEY = "https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY"
WEB = ("http", "https")
REMEMBERED = 500
"""Addresses whose secret parts are looked for in messages by themselves; of all others only as parts of an address."""


@dataclass
class Reach:
    """What is allowed.

    roots          folders (without links) and addresses below which rows may name files
    files          single paths and addresses that were named on the command line
    schemes        of object stores
    hosts          of http and https; `private_hosts` those of them that may have private addresses
    endpoints      address of an endpoint -> the environment variable that holds its key
    links          bare address -> the address with its user, password and query, where it had some
    """

    roots: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    schemes: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    private_hosts: set[str] = field(default_factory=set)
    endpoints: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    # -- what was named on the command line ----------------------------------------------------------------------------

    def trust(self, place: str | Path) -> None:
        """Rows may name what lies below this folder or address, which was named on the command line."""
        self.roots.add(_absolute(str(place)))
        parts = split(str(place))
        if parts is not None and parts.scheme in WEB and parts.hostname:
            self.private_hosts.add(parts.netloc.rpartition("@")[2].lower())

    def trust_file(self, place: str | Path) -> None:
        """Rows may name this one file, which was named on the command line."""
        self.files.add(_absolute(str(place)))

    def allow_store(self, store: str) -> None:
        """Rows may name files of the store in which the results lie, and on others of its kind."""
        if store:
            self.trust(store)
        parts = split(store)
        if parts is not None and parts.scheme not in WEB:
            self.schemes.add(parts.scheme)

    def keep(self, address: str) -> str:
        """The bare form of an address, under which it is kept and shown; `whole` gives it back to who opens it."""
        plain = bare(address)
        if plain != address:
            if len(self.links) < REMEMBERED:
                remember(secret_parts(address))
            self.links[plain] = address
        return plain

    def whole(self, address: str) -> str:
        """The address as it was named, with its user, password and query."""
        return self.links.get(address, address)

    # -- what rows name ------------------------------------------------------------------------------------------------

    def refusal(self, place: str) -> str:
        """Why a row may not name this path or address: a sentence, "" where it may. Local paths must be absolute."""
        if "::" in place and ("://" in place or place.partition("::")[0].isalnum()):
            return f"{bare_in(place)} is a chain of file systems, which no row may name; name the file itself"
        parts = split(place)
        if parts is None or parts.scheme == "file":
            return self._local_refusal(local_path(place) or Path(place))
        plain = bare(place)
        if _climbs(plain):
            return f"{plain} leads out of its folder by `..`; name the file itself"
        if plain in self.files or any(_is_below(plain, root) for root in self.roots):
            return ""
        if parts.scheme in WEB:
            return "" if self.allows_host(parts) else f"the host of {plain} is not allowed{_to_allow('hosts')}"
        if parts.scheme in self.schemes:
            return ""
        return f"{plain}: rows may not name {parts.scheme}:// addresses{_to_allow('schemes')}"

    def _local_refusal(self, path: Path) -> str:
        real = os.path.realpath(path)
        if real in self.files or any(_holds(root, real) for root in self.roots):
            return ""
        return f"{path} lies outside of the folder from which it is named{_to_allow('roots')}"

    def allows_host(self, parts: SplitResult) -> bool:
        """Whether rows may name files on this host."""
        return _matches(parts, self.hosts) or self.allows_private(parts)

    def allows_private(self, parts: SplitResult) -> bool:
        """Whether this host's address may be a private one: it is named so, or is itself the address that is named."""
        literal = {h for h in self.hosts if h.replace(".", "").replace(":", "").isdigit() or h.startswith("[")}
        return _matches(parts, self.private_hosts | literal)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def key_variable(self, address: str) -> str:
        """The environment variable that holds the key of an endpoint, "" where none is tied to it."""
        wanted = _endpoint(address)
        return next((name for url, name in self.endpoints.items() if _endpoint(url) == wanted), "")


def split(place: str) -> SplitResult | None:
    """An address in its parts, None for a path. Raises BadInput for what is no address."""
    if "://" not in place:
        return None
    try:
        parts = urlsplit(place)
        _ = parts.port
    except ValueError as error:
        raise BadInput(f"{bare(place)} is no address: {error}") from None
    return parts


def local_path(uri: str) -> Path | None:
    """The path of a uri on local disk, None for any other. Local uris are absolute paths, or file:// with %XX."""
    if uri.startswith("file://"):
        return Path(unquote_to_bytes(uri[len("file://") :]).decode("utf-8", "surrogateescape"))
    return Path(uri) if uri.startswith("/") else None


def _to_allow(key: str) -> str:
    return f"; to allow it, add it to `{key}` in the file that {VARIABLE} names"


def _absolute(place: str) -> str:
    if "://" in place and not place.startswith("file://"):
        return bare(place).rstrip("/")
    return os.path.realpath((local_path(place) or Path(place)).expanduser())


def _holds(root: str, path: str) -> bool:
    return "://" not in root and (path == root or path.startswith(root.rstrip("/") + "/"))


def _is_below(address: str, root: str) -> bool:
    return "://" in root and (address == root or address.startswith(root.rstrip("/") + "/"))


def _climbs(address: str) -> bool:
    return ".." in unquote(address).split("/")


def _matches(parts: SplitResult, names: Iterable[str]) -> bool:
    host = (parts.hostname or "").rstrip(".").lower()
    shown = f"[{host}]" if ":" in host else host
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    for name in names:
        wanted = name.lower()
        if wanted in (shown, host, f"{shown}:{port}"):
            return True
        if wanted.startswith("*.") and host.endswith(wanted[1:]):
            return True
    return False


def _endpoint(address: str) -> tuple[str, str, int | None, str]:
    parts = split(address)
    if parts is None:
        return ("", "", None, address)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return (parts.scheme, (parts.hostname or "").lower(), port, parts.path.rstrip("/"))


# -- the rules in force ------------------------------------------------------------------------------------------------

_in_force: Reach | None = None


def in_force() -> Reach:
    """The rules of this process: the operator's, until others are put in force."""
    global _in_force
    if _in_force is None:
        _in_force = operators()
    return _in_force


def begin() -> Reach:
    """Put the operator's rules in force, as a run begins: what was named for an earlier one no longer counts."""
    return put_in_force(operators())


def put_in_force(reach: Reach) -> Reach:
    """Replace the rules of this process; a worker is handed those of its driver."""
    global _in_force
    _in_force = reach
    return reach


def operators() -> Reach:
    """The operator's rules, read now. Raises BadInput where the file is none, or holds what means nothing."""
    found: dict[str, Any] = {}
    own = os.environ.get(VARIABLE, "")
    for path in (DEFAULT, *([Path(own).expanduser()] if own else [])):
        for key, value in _checked(path).items():
            found[key] = {**found.get(key, {}), **value} if key == "endpoints" else [*found.get(key, []), *value]
    openai = os.environ.get(OPENAI_URL) or OPENAI
    return Reach(
        roots={_absolute(r) for r in found.get("roots", ())},
        endpoints={openai: OPENAI_KEY, **found.get("endpoints", {})},
        schemes=_small(found, "schemes"),
        hosts=_small(found, "hosts"),
        private_hosts=_small(found, "private_hosts"),
    )


def _small(found: Mapping[str, Any], key: str) -> set[str]:
    return {str(v).lower().removesuffix("://") for v in found.get(key, ())}


def _checked(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(read_yaml(path), resolve=True)
    assert isinstance(plain, dict)
    for key, value in plain.items():
        if key not in KEYS:
            raise BadInput(f"{path}: unknown key {key!r}; {nearest(str(key), KEYS)}")
        if key == "endpoints":
            if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in (*value, *value.values())):
                raise BadInput(f"{path}: endpoints must map addresses to names of environment variables")
        elif key == "roots" and isinstance(value, list):
            home = path.resolve().parent
            plain[key] = [v if "://" in str(v) else str(home / Path(str(v)).expanduser()) for v in value]
        elif not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise BadInput(f"{path}: {key} must be a list of texts, not {value!r}")
    return {str(k): v for k, v in plain.items()}
