"""Fetch: a SourceItem to its encoded bytes, from a file or over HTTP, within limits of size, time and address."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import random
import stat
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.utils import requote_uri

from searchdb.errors import (
    FetchError,
    FetchTimeoutError,
    FileUnreadableError,
    HTTPStatusError,
    InvalidReferenceError,
    TooManyBytesError,
    TooManyRedirectsError,
    TransferError,
)
from searchdb.media.safe_http import PER_HOST, GuardedAdapter, HostSlots, RequestLimits, TooSlowError, request_limits
from searchdb.records import FetchedImage, SourceItem, clean_url, mask_credentials

CONNECT_TIMEOUT_S = 10.0
"""A server that has not accepted by then is down or filtered; each of a host's addresses gets this long."""

READ_TIMEOUT_S = 15.0
"""Longest silence. Slow image servers compute for seconds, none that answers at all needs longer."""

DEADLINE_S = 60.0
"""Longest time for one picture over HTTP, all redirects, tries and pauses included; waiting for its turn is not."""

SLOW_AFTER_S = 10.0
"""From when on an answer must have come fast enough: by then small pictures are here, and a short stall is made up."""

SLOWEST_BYTES_PER_S = 1000
"""Least speed on average. At it the deadline ends all but thumbnails, so a slower server only holds a thread."""

MAX_REDIRECTS = 5
"""A content network needs two or three; browsers' twenty would only make a loop longer."""

ATTEMPTS = 3
"""Tries in all. What fails three times within seconds is recorded, and `--retry-failed` tries it on another day."""

BACKOFF_S = 0.5
"""Pause before the second try; it doubles, and half of it is random so that workers do not return in step."""

RETRY_AFTER_CAP_S = 15.0
"""Longest Retry-After that is sat out: a thread asleep fetches nothing, and the failure is retryable later."""

CHUNK_BYTES = 256 * 1024
"""How much is read between two looks at the limits."""

SKIMMED_BYTES = 16 * 1024
"""Longest body of a redirect or an error that is read, only for its connection's sake: a new one costs more."""

_LONGEST_REASON = 160
"""Servers choose parts of these texts; a message stays on a line or two of a terminal."""

_REDIRECTS = (
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
)

_HTTP_FAULTS = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)
"""All that requests, urllib3 and http.client raise; requests' own errors are OSErrors, bad URLs are ValueErrors."""


class Fetcher:
    """Fetches pictures; one object serves many threads, and is closed at the end or used in a `with`.

    Proxies, .netrc and cookies are not used: behind a proxy the address that is checked would not be the address
    that is connected to, and the others would send an operator's secrets to whoever is in the list.

    Args:
        max_bytes: the largest picture, as it is stored or transferred.
        allow_private_addresses: fetch from loopback, private and link-local addresses, too.
        per_host: pictures in flight to one host; in all there are as many as the caller has threads.
        connect_timeout_s, read_timeout_s, deadline_s: seconds; see the constants of these names.
        slow_after_s, slowest_bytes_per_s: seconds, and bytes a second; see the constants of these names.
        attempts, backoff_s, retry_after_cap_s: how retryable failures are tried again.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        allow_private_addresses: bool = False,
        per_host: int = PER_HOST,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        deadline_s: float = DEADLINE_S,
        slow_after_s: float = SLOW_AFTER_S,
        slowest_bytes_per_s: float = SLOWEST_BYTES_PER_S,
        attempts: int = ATTEMPTS,
        backoff_s: float = BACKOFF_S,
        retry_after_cap_s: float = RETRY_AFTER_CAP_S,
    ) -> None:
        self._max_bytes = max_bytes
        self._allow_private_addresses = allow_private_addresses
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._deadline_s = deadline_s
        self._slow_after_s = slow_after_s
        self._slowest_bytes_per_s = slowest_bytes_per_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._retry_after_cap_s = retry_after_cap_s
        self._adapter = GuardedAdapter(per_host)
        self._slots = HostSlots(per_host)
        self._closed = threading.Event()
        # A company's own certificate authority, named the way requests and OpenSSL have it named.
        self._authorities = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
        self._headers = {
            "User-Agent": f"searchdb/{_version()} (indexes pictures so that they can be found by meaning)",
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",  # pictures are compressed already; a compressed answer may be a bomb
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections, end pauses between tries and waiting for a host's slots, and fetch no more."""
        self._closed.set()
        self._slots.close()
        self._adapter.close()

    def fetch(self, item: SourceItem) -> FetchedImage:
        """Return the item's bytes, unchanged and undecoded.

        Raises:
            FetchError: they could not be had; the subclass says why and `retryable` whether later may be better.
        """
        data = self._fetch_url(item.rendition or item.image) if item.is_url else _read_file(item.image, self._max_bytes)
        return FetchedImage(item=item, data=data)

    def _fetch_url(self, url: str) -> bytes:
        before = request_limits.set(
            RequestLimits(
                deadline=time.monotonic() + self._deadline_s,
                connect_s=self._connect_timeout_s,
                read_s=self._read_timeout_s,
                slow_after_s=self._slow_after_s,
                slowest_bytes_per_s=self._slowest_bytes_per_s,
                allow_private_addresses=self._allow_private_addresses,
            )
        )
        try:
            for attempt in range(1, self._attempts + 1):
                try:
                    return self._follow(url)
                except TooSlowError as exc:  # a server that slow stays so for now, and a thread's time is dear
                    raise FetchTimeoutError(str(exc)) from exc
                except FetchError as exc:
                    pause = self._pause(attempt, exc)
                    last = attempt == self._attempts or pause is None or pause >= request_limits.get().left_s()
                    if last or not exc.retryable:
                        raise
                if self._closed.wait(pause):
                    break
        finally:
            request_limits.reset(before)
        raise TransferError("the fetch was given up because searchdb is closing")

    def _pause(self, attempt: int, error: FetchError) -> float | None:
        """Return the seconds to wait before the next try, None when the server asks for longer than we wait."""
        pause = self._backoff_s * 2 ** (attempt - 1)
        pause = pause / 2 + random.uniform(0, pause / 2)  # noqa: S311 - spreads load, hides nothing
        asked = error.retry_after_s if isinstance(error, HTTPStatusError) else None
        if asked is None:
            return pause
        return None if asked > self._retry_after_cap_s else max(asked, pause)

    def _follow(self, url: str) -> bytes:
        """Return the body at the end of the redirects; every target is held to the rules of the first."""
        for hop in range(MAX_REDIRECTS + 1):
            try:
                url = clean_url(url)
            except ValueError as exc:
                found = "the server redirected to" if hop else "the URL"
                raise InvalidReferenceError(f"{found} {_brief(url)}: it {exc}") from exc
            with self._slots.taken(url), closing(self._get(url)) as response:
                if response.status_code != HTTPStatus.OK:
                    _skim(response)
                target = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or target is None:
                    return self._body(response, url)
                target = requote_uri(target.encode("latin-1", "replace").decode("utf-8", "replace"))
                try:
                    url = urljoin(url, target)
                except ValueError:  # its text may quote the password
                    raise InvalidReferenceError(f"the server redirected to {_brief(target)}: it is malformed") from None
        raise TooManyRedirectsError(f"the server redirected more than {MAX_REDIRECTS} times, last to {_brief(url)}")

    def _get(self, url: str) -> requests.Response:
        """Return the answer, its body still unread.

        The adapter is used without a requests.Session, because a session reads a redirect's body whole, without limit.
        """
        try:
            request = requests.Request("GET", url, headers=self._headers).prepare()
            timeout = self._connect_timeout_s, self._read_timeout_s
            return self._adapter.send(request, stream=True, timeout=timeout, verify=self._authorities)
        except _HTTP_FAULTS as exc:
            # What they say of a malformed URL quotes its password, and a traceback would bring that into a log.
            raise self._translated(exc, url) from (None if isinstance(exc, ValueError) else exc)

    def _body(self, response: requests.Response, url: str) -> bytes:
        if response.status_code != HTTPStatus.OK:
            raise HTTPStatusError(response.status_code, _brief(response.reason or ""), _retry_after(response))
        declared = _declared(response)
        if declared is not None and declared > self._max_bytes:
            raise TooManyBytesError(self._max_bytes, declared)
        body = bytearray()
        try:
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=True):
                body += chunk
                if len(body) > self._max_bytes:
                    raise TooManyBytesError(self._max_bytes)
        except urllib3.exceptions.ProtocolError as exc:
            if declared is None:
                raise TransferError("the connection ended before the whole picture had come") from exc
            raise TransferError(f"the server sent {response.raw.tell():,} of {declared:,} bytes") from exc
        except _HTTP_FAULTS as exc:
            raise self._translated(exc, url) from exc
        return bytes(body)

    def _translated(self, exc: Exception, url: str) -> FetchError:
        """Return our error for one of theirs; the innermost of their nested exceptions names the cause."""
        host = urlsplit(url).hostname
        root: BaseException = exc
        while inner := root.__cause__ or root.__context__:
            root = inner
        cause = _brief(str(root) or type(root).__name__)
        if isinstance(exc, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            if request_limits.get().left_s() <= 0:
                return FetchTimeoutError(f"the picture had not come after {self._deadline_s:g} seconds in all")
            return FetchTimeoutError(f"{host} sent nothing for {self._read_timeout_s:g} seconds")
        if isinstance(exc, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
            return TransferError(f"no secure connection to {host}: {cause}")
        if isinstance(exc, requests.exceptions.InvalidHeader):
            return TransferError(f"{host} sent malformed headers: {cause}")
        if isinstance(exc, urllib3.exceptions.DecodeError):
            return TransferError(f"{host} sent data that is not in the Content-Encoding it names: {cause}")
        if isinstance(exc, ValueError):
            return InvalidReferenceError(f"the URL {_brief(url)} cannot be requested: {cause}")
        return TransferError(f"the connection to {host} broke: {cause}")


def _read_file(path: str, max_bytes: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a named pipe waits for its writer, for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileUnreadableError("the file is not a regular file")
            if status.st_size > max_bytes:
                raise TooManyBytesError(max_bytes, status.st_size)
            data = file.read(status.st_size + 1)
            if len(data) > status.st_size:  # it grew, or is one of those under /proc that claim to be empty
                data += file.read(max_bytes + 1 - len(data))
    except OSError as exc:
        raise FileUnreadableError(f"the file cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a NUL, or characters that no file name can have
        raise FileUnreadableError(f"the file cannot be read: {_brief(str(exc))}") from exc
    if len(data) > max_bytes:
        raise TooManyBytesError(max_bytes)
    return data


def _declared(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _skim(response: requests.Response) -> None:
    """Read a short body that nobody needs, because only a connection read to the end can be used again."""
    declared = _declared(response)
    if declared is not None and declared <= SKIMMED_BYTES:
        with suppress(TooSlowError, *_HTTP_FAULTS):
            response.raw.read(SKIMMED_BYTES)


def _retry_after(response: requests.Response) -> float | None:
    """Return the Retry-After header (seconds or a date) in seconds from now, None when there is no sensible one."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])  # digits beyond a year's seconds say nothing more
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _brief(text: str) -> str:
    """Return text that a server or a list chose as one short printable line without passwords."""
    line = mask_credentials(text).encode("unicode_escape").decode("ascii")
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def _version() -> str:
    try:
        return importlib.metadata.version("searchdb")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
