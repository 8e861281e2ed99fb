"""Which addresses may be fetched: those of the hosts that an operator lists, and no others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from rsfed.errors import ConfigError

_ENTRY = re.compile(r"(?:(?P<scheme>https?)://)?(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?/?")
_PORTS = {"https": 443, "http": 80}
_MAX_SHOWN = 200  # characters


class Origin(NamedTuple):
    """Where an address leads."""

    scheme: str
    host: str
    port: int


class Hosts:
    """The hosts that may be fetched from.

    `host` and `host:port` are HTTPS, and for the machine itself plain HTTP, too; `http://host:port` is plain HTTP.

    Args:
        entries: As the operator lists them.

    Raises:
        ConfigError: one of them is none.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._origins = {origin for entry in entries for origin in _origins(entry)}

    def refusal(self, url: str) -> str | None:
        """Return why an address is not fetched; None for one that is."""
        origin = origin_of(url)
        if origin is None:
            return f"it leads to {shown(url)}, which is no address over HTTPS without a user's name"
        if origin in self._origins:
            return None
        plain = "http://" if origin.scheme == "http" else ""
        return f"it leads to {shown(url)}, whose host is not listed; list {plain}{_named(origin)} in archive.hosts"


def origin_of(url: str) -> Origin | None:
    """Return where an address leads; None where it is none over HTTP(S), or carries a user's name or password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc or not url.isprintable() or " " in url:
        return None
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme])


def address(href: str, base: str = "") -> str:
    """Return where a link leads, without what names a part of it, in characters that addresses have."""
    try:
        return quote(urldefrag(urljoin(base, href)).url, safe="%/:=&?~+!$,;'@()*[]-._", errors="backslashreplace")
    except ValueError:
        return quote(href, errors="backslashreplace")


def own_entry(url: str) -> tuple[str, ...]:
    """Return how the host of an address that an operator wrote is listed; plain HTTP has to be listed as such."""
    origin = origin_of(url)
    return () if origin is None else (_named(origin),)


def shown(url: str) -> str:
    """Return an address as it may be printed: without what proves somebody's right to read it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "an address that is none"
    place = f":{parts.netloc.rpartition(':')[2]}" if re.search(r":\d+$", parts.netloc) else ""
    start = f"{parts.scheme}://{host}{place}" if parts.scheme else ""
    return (quote(start, safe=":/.-[]") + quote(parts.path, safe="/%.:~-_", errors="backslashreplace"))[:_MAX_SHOWN]


def _named(origin: Origin) -> str:
    return f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"


def _origins(entry: str) -> list[Origin]:
    found = _ENTRY.fullmatch(entry)
    if found is None or int(found["port"] or 1) not in range(1, 65536):
        raise ConfigError(f"archive.hosts lists {entry!r}; write host, host:port, or http://host:port for plain HTTP")
    host = found["host"].strip("[]").lower()
    schemes = [found["scheme"]] if found["scheme"] else ["https", *(["http"] if _is_loopback(host) else [])]
    return [Origin(scheme, host, int(found["port"] or _PORTS[scheme])) for scheme in schemes]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
