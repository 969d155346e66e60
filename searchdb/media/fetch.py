"""Fetches the encoded bytes of a SourceItem from a file or over HTTP, within limits of size, time and address."""

from __future__ import annotations

import importlib.metadata
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import IO, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from requests.utils import requote_uri

from searchdb.errors import (
    DecodeInterruptedError,
    FetchError,
    FetchTimeoutError,
    HTTPStatusError,
    InvalidReferenceError,
    TooManyBytesError,
    TooManyRedirectsError,
    TransferError,
)
from searchdb.media.http_replies import HTTP_FAULTS, REDIRECTS, content_length, drain, one_line, retry_after
from searchdb.media.local_files import UnwantedContentError, append, read_file, unnamed_file
from searchdb.media.memory import Hold
from searchdb.media.safe_http import PER_HOST, GuardedAdapter, HostSlots, RequestLimits, TooSlowError, current_limits
from searchdb.records import FetchedImage, SourceItem, clean_url

CONNECT_TIMEOUT_S = 10.0
"""Time limit for connecting to each of a host's addresses; a server that takes longer is down or filtered."""

READ_TIMEOUT_S = 15.0
"""Longest wait for data. Slow image servers compute for seconds; a working server does not need longer."""

DEADLINE_S = 60.0
"""Time limit for one image over HTTP, including all redirects, attempts and pauses but not the wait for a host slot."""

SLOW_AFTER_S = 10.0
"""Time after which the minimum speed applies: by then small images are complete and short stalls have evened out."""

SLOWEST_BYTES_PER_S = 1000
"""Minimum average speed. At this speed only thumbnails finish before the deadline, so a slower server just occupies a
thread."""

MAX_REDIRECTS = 5
"""Content networks need two or three; the twenty of browsers would only prolong a redirect loop."""

ATTEMPTS = 3
"""Attempts in all. After three failures within seconds the failure is recorded; `--retry-failed` tries again later."""

BACKOFF_S = 0.5
"""Pause before the second attempt; it doubles each time, and half of it is random so that workers do not retry in
step."""

RETRY_AFTER_CAP_S = 15.0
"""Longest Retry-After that is waited for: a sleeping thread fetches nothing, and the failure can be retried later."""

CHUNK_BYTES = 256 * 1024
"""Bytes read between two checks of the limits."""

VIDEO_DEADLINE_S = 3600.0
"""Time limit for one video over HTTP: an hour, in which 2 GiB arrive at 600 kB/s."""

VIDEO_SLOWEST_BYTES_PER_S = 50_000
"""Minimum average speed of a video: a slower server would occupy a thread for the whole hour."""

SMALL_BODY_BYTES = 1024 * 1024
"""Bytes of a download that no memory is reserved for, so that servers that do not tell the size are still read by many
threads: of a larger body that may have any size, the largest size is reserved."""


T = TypeVar("T")


class Fetcher:
    """Fetches images; thread-safe. Close it after use, or use it as a context manager.

    Proxies, .netrc and cookies are not used: behind a proxy the checked address would not be the connected one, and
    the others would send an operator's secrets to any host in a list.

    Args:
        max_bytes: the largest image, in bytes as stored or transferred.
        allow_private_addresses: also fetch from loopback, private and link-local addresses.
        per_host: maximum number of images in flight to one host; the total is limited by the caller's threads.
        connect_timeout_s, read_timeout_s, deadline_s: seconds; see the constants of the same names.
        slow_after_s, slowest_bytes_per_s: seconds and bytes per second; see the constants of the same names.
        attempts, backoff_s, retry_after_cap_s: control retries; see the constants of the same names.
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
        # A private certificate authority, named by the variables of requests and OpenSSL.
        self._authorities = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
        self._headers = {
            "User-Agent": f"searchdb/{_version()} (indexes images for semantic search)",
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",  # images are already compressed; a compressed response may be a bomb
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections, interrupt pauses and waits for host slots, and refuse further fetches."""
        self._closed.set()
        self._slots.close()
        self._adapter.close()

    def fetch(
        self, item: SourceItem, hold: Hold | None = None, *, unwanted: Callable[[bytes], bool] | None = None
    ) -> FetchedImage:
        """Return the item's bytes, unchanged and undecoded.

        `hold` takes the memory for the bytes before they are read; the caller releases it when they are no longer
        needed. `unwanted` is asked whether a file that begins with these bytes is not to be read.

        Raises:
            FetchError: the fetch failed; the subclass says why, and `retryable` whether a later attempt may succeed.
            UnwantedContentError: `unwanted` said so.
        """
        if item.is_url:
            data = self._fetch_url(
                item.rendition or item.image,
                lambda response, url: self._body(response, url, hold, unwanted),
                deadline_s=self._deadline_s,
                slowest_bytes_per_s=self._slowest_bytes_per_s,
            )
        else:
            data = read_file(item.image, self._max_bytes, hold, unwanted)
        if hold is not None:
            hold.shrink(len(data))
        return FetchedImage(item=item, data=data)

    def download(self, item: SourceItem, folder: Path, *, max_bytes: int, cancel: threading.Event) -> IO[bytes]:
        """Download a video to a file without a name in the folder: it vanishes when it is closed or the process ends.

        Raises:
            FetchError: as for `fetch`; also where the folder cannot be written.
            DecodeInterruptedError: `cancel` was set.
        """

        def save(response: requests.Response, url: str) -> IO[bytes]:
            file = unnamed_file(folder)
            try:
                for chunk in self._chunks(response, url, max_bytes, kind="video"):
                    if cancel.is_set():
                        raise DecodeInterruptedError
                    append(file, chunk, folder)
            except BaseException:
                file.close()
                raise
            return file

        return self._fetch_url(
            item.rendition or item.image,
            save,
            deadline_s=VIDEO_DEADLINE_S,
            slowest_bytes_per_s=max(self._slowest_bytes_per_s, VIDEO_SLOWEST_BYTES_PER_S),
        )

    def _fetch_url(
        self,
        url: str,
        receive: Callable[[requests.Response, str], T],
        *,
        deadline_s: float,
        slowest_bytes_per_s: float,
    ) -> T:
        token = current_limits.set(
            RequestLimits(
                deadline=time.monotonic() + deadline_s,
                whole_s=deadline_s,
                connect_s=self._connect_timeout_s,
                read_s=self._read_timeout_s,
                slow_after_s=self._slow_after_s,
                slowest_bytes_per_s=slowest_bytes_per_s,
                allow_private_addresses=self._allow_private_addresses,
            )
        )
        try:
            for attempt in range(1, self._attempts + 1):
                try:
                    return self._follow(url, receive)
                except TooSlowError as exc:  # no retry: such a server is likely to stay slow and would occupy a thread
                    raise FetchTimeoutError(str(exc)) from exc
                except FetchError as exc:
                    pause = self._pause(attempt, exc)
                    last = attempt == self._attempts or pause is None or pause >= current_limits.get().left_s()
                    if last or not exc.retryable:
                        raise
                if self._closed.wait(pause):
                    break
        finally:
            current_limits.reset(token)
        raise TransferError("the fetch was cancelled because searchdb is closing")

    def _pause(self, attempt: int, error: FetchError) -> float | None:
        """Return the seconds to wait before the next attempt; None if the server asks for more than the limit."""
        pause = self._backoff_s * 2 ** (attempt - 1)
        pause = pause / 2 + random.uniform(0, pause / 2)  # noqa: S311 - spreads load, not security
        retry_after = error.retry_after_s if isinstance(error, HTTPStatusError) else None
        if retry_after is None:
            return pause
        return None if retry_after > self._retry_after_cap_s else max(retry_after, pause)

    def _follow(self, url: str, receive: Callable[[requests.Response, str], T]) -> T:
        """Receive the body at the end of the redirects; each target is checked like the first URL."""
        for hop in range(MAX_REDIRECTS + 1):
            try:
                url = clean_url(url)
            except ValueError as exc:
                found = "the server redirected to" if hop else "the URL"
                raise InvalidReferenceError(f"{found} {one_line(url)}: it {exc}") from exc
            with self._slots.acquire(url), closing(self._get(url)) as response:
                if response.status_code != HTTPStatus.OK:
                    drain(response)
                target = response.headers.get("Location")
                if response.status_code not in REDIRECTS or target is None:
                    return receive(response, url)
                target = requote_uri(target.encode("latin-1", "replace").decode("utf-8", "replace"))
                try:
                    url = urljoin(url, target)
                except ValueError:  # its message may quote the password
                    raise InvalidReferenceError(
                        f"the server redirected to {one_line(target)}: it is malformed"
                    ) from None
        raise TooManyRedirectsError(f"the server redirected more than {MAX_REDIRECTS} times, last to {one_line(url)}")

    def _get(self, url: str) -> requests.Response:
        """Return the response with its body unread.

        The adapter is used without a requests.Session, because a session reads a redirect's body without limit.
        """
        try:
            request = requests.Request("GET", url, headers=self._headers).prepare()
            timeout = self._connect_timeout_s, self._read_timeout_s
            return self._adapter.send(request, stream=True, timeout=timeout, verify=self._authorities)
        except HTTP_FAULTS as exc:
            # ValueErrors about malformed URLs quote the password, and a traceback would write it to a log.
            raise self._translated(exc, url) from (None if isinstance(exc, ValueError) else exc)

    def _body(
        self, response: requests.Response, url: str, hold: Hold | None, unwanted: Callable[[bytes], bool] | None
    ) -> bytes:
        declared = content_length(response)
        body = BytesIO()  # unlike a bytearray, it gives its content without a copy
        known = declared if "Content-Encoding" not in response.headers else None
        to_hold = self._max_bytes if known is None else known
        for chunk in self._chunks(response, url, self._max_bytes, unwanted=unwanted):
            if hold is not None and body.tell() <= SMALL_BODY_BYTES < body.tell() + len(chunk):
                hold.take(to_hold)
            body.write(chunk)
        return body.getvalue()

    def _chunks(
        self,
        response: requests.Response,
        url: str,
        max_bytes: int,
        *,
        kind: str = "image",
        unwanted: Callable[[bytes], bool] | None = None,
    ) -> Iterator[bytes]:
        """Yield the parts of a body within the limits."""
        if response.status_code != HTTPStatus.OK:
            raise HTTPStatusError(response.status_code, one_line(response.reason or ""), retry_after(response))
        declared = content_length(response)
        too_large = declared is not None and declared > max_bytes
        if too_large and unwanted is None:
            raise TooManyBytesError(max_bytes, declared, kind=kind)
        size = 0
        try:
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=True):
                if not size and unwanted is not None and unwanted(chunk):
                    raise UnwantedContentError
                size += len(chunk)
                if too_large or size > max_bytes:
                    raise TooManyBytesError(max_bytes, declared if too_large else None, kind=kind)
                yield chunk
        except urllib3.exceptions.ProtocolError as exc:
            if declared is None:
                raise TransferError(f"the connection ended before the {kind} was complete") from exc
            raise TransferError(f"the server sent {response.raw.tell():,} of {declared:,} bytes") from exc
        except HTTP_FAULTS as exc:
            raise self._translated(exc, url) from exc

    def _translated(self, exc: Exception, url: str) -> FetchError:
        """Return our error for an exception of the HTTP libraries; the innermost nested exception names the cause."""
        host = urlsplit(url).hostname
        root: BaseException = exc
        while inner := root.__cause__ or root.__context__:
            root = inner
        cause = one_line(str(root) or type(root).__name__)
        if isinstance(exc, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            if current_limits.get().left_s() <= 0:
                return FetchTimeoutError(f"it was not complete after {current_limits.get().whole_s:g} seconds in all")
            return FetchTimeoutError(f"{host} sent nothing for {self._read_timeout_s:g} seconds")
        if isinstance(exc, requests.exceptions.SSLError | urllib3.exceptions.SSLError):
            return TransferError(f"no secure connection to {host}: {cause}")
        if isinstance(exc, requests.exceptions.InvalidHeader):
            return TransferError(f"{host} sent malformed headers: {cause}")
        if isinstance(exc, urllib3.exceptions.DecodeError):
            return TransferError(f"{host} sent data that is not in the Content-Encoding it names: {cause}")
        if isinstance(exc, ValueError):
            return InvalidReferenceError(f"the URL {one_line(url)} cannot be requested: {cause}")
        return TransferError(f"the connection to {host} broke: {cause}")


def _version() -> str:
    try:
        return importlib.metadata.version("searchdb")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
