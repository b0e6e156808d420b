"""Files on http and https: allowed hosts only, at addresses that are looked at before anything is sent, also after each
redirect."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stages.core.reach.policy import Reach, in_force, split
from stages.core.reach.secrets import bare

if TYPE_CHECKING:
    import httpx

MOST_REDIRECTS, TIMEOUT_S = 5, 60.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HEADERS = {"accept-encoding": "identity", "user-agent": "rushes"}


class Refused(ValueError):
    """An address that may not be opened. Permanent: it is refused again."""


class NotThere(OSError):
    """A host that answers, but not with the file."""


@contextmanager
def answer(address: str, method: str = "GET") -> Iterator[httpx.Response]:
    """The answer to a request for an address, its body unread. Raises Refused, NotThere, and OSError for what may pass.

    Every hop is looked at: its host must be allowed, and so must be the address that its name leads to, which is then
    the one that is spoken to.
    """
    import httpx

    reach, url = in_force(), in_force().whole(address)
    with httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT_S, headers=HEADERS) as client:
        for _ in range(MOST_REDIRECTS + 1):
            request = _request(client, reach, method, url)
            try:
                found = client.send(request, stream=True)
            except httpx.HTTPError as error:
                raise OSError(f"{bare(url)} does not answer: {error or type(error).__name__}") from None
            try:
                if not found.is_redirect:
                    if found.status_code >= 400:
                        raise _failed(url, found.status_code)
                    yield found
                    return
                url = str(httpx.URL(url).join(found.headers["location"]))
            finally:
                found.close()
        raise Refused(f"{bare(address)} leads on more than {MOST_REDIRECTS} times")


def _failed(url: str, status: int) -> OSError:
    """What is busy may answer later; all else is as it is."""
    said = f"{bare(url)} answers with status {status}"
    return OSError(said) if status in (408, 425, 429) or status >= 500 else NotThere(said)


def _request(client: httpx.Client, reach: Reach, method: str, url: str) -> httpx.Request:
    """A request to the very address that was looked at; the host's name goes along for TLS and for the server."""
    import httpx

    parts = split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{bare(url)} is no address of http or https")
    if refusal := reach.refusal(url):
        raise Refused(refusal)
    number = _looked_up(reach, url)
    whole = httpx.URL(url)
    request = client.build_request(
        method,
        whole.copy_with(host=number, username="", password=""),
        headers={"host": whole.netloc.decode().rpartition("@")[2]},
        extensions={"sni_hostname": parts.hostname},
    )
    if whole.username or whole.password:
        request = next(httpx.BasicAuth(whole.username, whole.password).auth_flow(request))
    return request


def _looked_up(reach: Reach, url: str) -> str:
    """The address of a host. Raises Refused for one that no public host has, unless that host may have it."""
    parts = split(url)
    assert parts is not None
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or parts.scheme, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"the host of {bare(url)} is not known: {getattr(error, 'strerror', None) or error}") from None
    numbers = [str(entry[4][0]).partition("%")[0] for entry in found]
    private = [n for n in numbers if not is_public(n)]
    if private and not reach.allows_private(parts):
        raise Refused(
            f"the host of {bare(url)} has the private address {private[0]}; to allow it, add the host to "
            "`private_hosts` in the file that RUSHES_REACH names"
        )
    return numbers[0]


def is_public(number: str) -> bool:
    """Whether an IP address is one of the open internet: not private, of this machine, of this link, nor a group's."""
    address: Any = ipaddress.ip_address(number)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return bool(address.is_global and not address.is_multicast)


def facts(address: str) -> Mapping[str, Any]:
    """`size` in bytes, and `etag` or `last_modified`, of a file as its host tells them. Raises as `answer` does."""
    try:
        with answer(address, "HEAD") as found:
            headers = found.headers
    except NotThere:
        with answer(address) as found:
            headers = found.headers
    told = {"etag": headers.get("etag"), "last_modified": headers.get("last-modified")}
    return {"size": int(headers.get("content-length") or 0), **told}
