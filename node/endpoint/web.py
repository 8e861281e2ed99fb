"""Fetching over HTTP(S): from listed hosts only, no more than allowed, and not for ever.

Redirects are followed where they lead to a listed host. No credentials are sent and no address is printed whole. What
may be otherwise the next time is refused as UNREADABLE; else it is gone or will not do.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from rsfed.errors import RasterRejected
from rsfed.hosts import Hosts, Origin, origin_of, shown

_TIMEOUT_S = 30.0  # of each step
_PATIENCE_S = 60.0  # after which a transfer must have been as fast as the next line says
_LEAST_BYTES_PER_S = 10_000
_MOST_SILENT = 3
_CHUNK = 1 << 18  # bytes
_ROOM = 1 << 20  # bytes of what comes with an answer: its headers, the marks of its chunks
_GONE = (404, 410)
_UNCHANGED = 304
_NAMES = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched.

    Attributes:
        size: Its bytes.
        sha256: Of them, hexadecimal.
        version: What its host says of the version, to ask whether there is another.
    """

    size: int
    sha256: str
    version: Mapping[str, str]


class TooLarge(RasterRejected):
    """A file has more bytes than it may."""

    reason = "FETCH_SIZE"


class Web:
    """Fetches from listed hosts.

    Args:
        hosts: The hosts.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._silent: Counter[Origin | None] = Counter()  # how often in a row a host did not answer
        self._opener = OpenerDirector()
        context = ssl.create_default_context()
        for handler in (
            ProxyHandler(),
            _Http(),
            _Https(context),
            HTTPDefaultErrorHandler(),
            HTTPErrorProcessor(),
            _Redirects(hosts),
        ):
            self._opener.add_handler(handler)

    def document(self, url: str, most: int) -> tuple[bytes, str]:
        """Return what an address holds, and where it was found in the end.

        Raises:
            RasterRejected: its host is not listed, it is gone or too large; UNREADABLE, it cannot be had just now.
        """
        with closing(self._open(url, {})) as response:
            return b"".join(_chunks(response, most, url)), response.url

    def file(self, url: str, path: Path, most: int, version: Mapping[str, str]) -> Fetched | None:
        """Fetch an address into a file, unless it still is as it was.

        Args:
            url: The address.
            path: The file, which is written anew.
            most: Bytes that it may have.
            version: As it was fetched before; empty to fetch it in any case.

        Returns:
            What was fetched; None where it still is the same.

        Raises:
            RasterRejected: as for `document`.
            OSError: the file cannot be written.
        """
        asked = {_NAMES[name]: value for name, value in version.items() if name in _NAMES}
        try:
            response = self._open(url, asked)
        except _Unchanged:
            return None
        digest, size = hashlib.sha256(), 0
        with closing(response), path.open("wb") as file:
            for chunk in _chunks(response, most, url):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
        told = {name: value for name in _NAMES if (value := response.headers.get(name))}
        return Fetched(size, digest.hexdigest(), told)

    def _open(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        if reason := self._hosts.refusal(url):
            raise RasterRejected(reason)
        origin = origin_of(url)
        if self._silent[origin] >= _MOST_SILENT:  # else each of many files would take the time that one waits
            raise _passing(f"{shown(url)} is not asked for: its host did not answer {_MOST_SILENT} times in a row")
        asked = {"Accept-Encoding": "identity", "User-Agent": "rsfed", **headers}
        request = Request(url, headers=asked)  # noqa: S310 - the scheme was checked
        try:
            response: HTTPResponse = self._opener.open(request, timeout=_TIMEOUT_S)
        except HTTPError as error:
            error.close()
            self._silent[origin] = 0
            raise _of_status(error.code, url) from None
        except (OSError, HTTPException, ValueError) as error:
            self._silent[origin] += 1
            raise _unreachable(error, url) from None
        self._silent[origin] = 0
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise _passing(f"{shown(url)} is sent packed; let its host send it as it is")
        return response


class _Unchanged(Exception):
    """A file still is as it was fetched."""


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to listed hosts."""

    max_redirections = 5

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def redirect_request(  # noqa: PLR0913, PLR0917 - given by the library
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Return the request that follows another one."""
        fp.close()  # the library would read all of it
        if reason := self._hosts.refusal(newurl):
            # A host that is down for a while may send everybody elsewhere; what lies there is not gone.
            raise _passing(f"{shown(req.full_url)} redirects: {reason}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Endless(OSError):
    """An answer comes too slowly, or does not end."""


class _Watched(RawIOBase):
    """What a socket gives, headers and the marks of chunks included, as long as it is not too slow, and not too much.

    Args:
        source: The socket.
    """

    def __init__(self, source: RawIOBase) -> None:
        self._source = source
        self._start = time.monotonic()
        self._size = 0
        self.most = _ROOM  # bytes that may come

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - as the library has it
        """Read what has come into a buffer, and return how much that is."""
        count: int | None = self._source.readinto(buffer)
        self._size += count or 0
        seconds = time.monotonic() - self._start
        if seconds > _PATIENCE_S and self._size < _LEAST_BYTES_PER_S * seconds:
            raise _Endless("comes too slowly")
        if self._size > self.most:
            raise _Endless("does not come to an end")
        return count

    def close(self) -> None:
        """Close the socket."""
        self._source.close()
        super().close()


class _Response(HTTPResponse):
    """An answer whose every byte is watched: the library bounds neither the time nor the number of its parts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the library has it
        super().__init__(*args, **kwargs)
        self.watched = _Watched(self.fp.detach())
        self.fp = BufferedReader(self.watched)


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Http(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        """Ask over HTTP."""
        return self.do_open(_Connection, req)


class _Https(HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._known = context

    def https_open(self, req: Request) -> HTTPResponse:
        """Ask over HTTPS."""
        return self.do_open(_SecureConnection, req, context=self._known)


def _chunks(response: HTTPResponse, most: int, url: str) -> Iterator[bytes]:
    """Yield what comes, as long as it is not too much."""
    size, length = 0, response.length
    if isinstance(response, _Response):
        response.watched.most += 2 * max(most, 0)
    while size <= most and (length or 0) <= most:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, HTTPException, ValueError) as error:
            raise _unreachable(error, url) from None
        if not chunk:
            if length is not None and size != length:
                raise _passing(f"{shown(url)} was cut off after {size:,} of {length:,} bytes; run the ingest again")
            return
        size += len(chunk)
        yield chunk
    raise TooLarge(f"{shown(url)} has more than {max(most, 0):,} bytes, the limit; divide it")


def _of_status(status: int, url: str) -> Exception:
    if status == _UNCHANGED:
        return _Unchanged()
    if status in _GONE:
        return RasterRejected(f"{shown(url)} is gone (HTTP {status}); put it back, or take it out of the catalogue")
    return _passing(f"{shown(url)} is not given (HTTP {status}); let its host give it without asking who reads it")


def _unreachable(error: Exception, url: str) -> RasterRejected:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _passing(f"nobody known vouches for {shown(url)}; name its authority's file by SSL_CERT_FILE")
    if isinstance(cause, _Endless):
        return _passing(f"{shown(url)} {cause}; run the ingest again")
    if isinstance(cause, TimeoutError):
        return _passing(f"{shown(url)} does not answer; check network and host")
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
    return _passing(f"{shown(url)} cannot be reached ({words}); check network and host")


def _passing(what: str) -> RasterRejected:
    return RasterRejected(what, reason="UNREADABLE")
