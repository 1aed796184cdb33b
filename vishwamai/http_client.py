"""Posts JSON to one URL over `httpx` (the extra `remote`): paced, bounded, and tried again where that can help.

Redirects are not followed and the environment's proxies are not used, so the key goes to the URL's host and to no
other; no error shows it. It knows no API: callers say what is sent, and what a response should be.
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import itertools
import json
import math
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from vishwamai.errors import BackendError, InputError

Read = Callable[[Any], Any]  # makes something of a response's JSON
Post = Callable[[dict[str, Any], Read], Awaitable[Any]]
MAX_RESPONSE = 64 * 2**20  # bytes
MIN_BACKOFF, MAX_BACKOFF, MAX_WAIT = 0.5, 30.0, 300.0  # seconds between two tries
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


class RequestError(BackendError):
    """A request that failed: what happened, and what to do. `status` is the response's, or None.

    Where `retry`, another try may help, after `wait` seconds.
    """

    def __init__(self, what: str, todo: str, *, status: int | None = None, retry: bool = False, wait: float = 0.0):
        super().__init__(f"{what}: {todo}")
        self.what, self.todo, self.status, self.retry, self.wait = what, todo, status, retry, wait


class DeadlineExceeded(BackendError):
    """The deadline passed before a request was answered."""


@dataclasses.dataclass(kw_only=True)
class JSONClient:
    """A client of the URL `url` + `path`, which several threads may use; an `api_key` of "" is not sent.

    `timeout` is of a whole request, in seconds. One that meets 408, 429, 5xx, a timeout, a broken connection or half a
    response is tried `retries` more times. `concurrency` bounds the requests of a session that are under way at once,
    and `requests_per_minute` those of all sessions. A response should be a `content`; `advice` says what to do where it
    is none ("content"), about a "timeout", a "size" or a status. `on_request` is called for each request. Raises
    `InputError` for a URL or a key that cannot be used, `BackendError` without httpx.
    """

    url: str
    path: str
    api_key: str = dataclasses.field(repr=False)
    timeout: float
    retries: int
    concurrency: int
    requests_per_minute: float = math.inf
    content: str = "JSON"
    advice: Mapping[int | str, str] = dataclasses.field(default_factory=dict)
    on_request: Callable[[], None] = lambda: None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self):
        _check_url(self.url)
        self.url = self.url.rstrip("/") + self.path
        if not isinstance(self.api_key, str) or not re.fullmatch("[!-~]*", self.api_key):
            raise InputError("the endpoint's key (api_key, or its variable) has characters that no key has")
        self._tls, self._lock, self._next_start = ssl.create_default_context(), threading.Lock(), -math.inf

    @contextlib.asynccontextmanager
    async def session(self, deadline: float | None = None) -> AsyncIterator[Post]:
        """Yields `post(payload, read)`, which returns what `read` makes of the response.

        It raises `RequestError`, and `DeadlineExceeded` at `deadline`, a time of the clock. A response for which `read`
        raises `KeyError`, `ValueError` or the like counts as broken.
        """
        import httpx

        headers = {"Content-Type": "application/json", "User-Agent": "vishwamai", "Accept-Encoding": "identity"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        # httpx's own timeouts are of single reads, and its limits would count the wait for a connection in them.
        options = {"trust_env": False, "follow_redirects": False, "timeout": None, "limits": httpx.Limits()}
        gate = asyncio.Semaphore(self.concurrency)
        async with httpx.AsyncClient(headers=headers, verify=self._tls, **options) as client:

            async def post(payload: dict[str, Any], read: Read) -> Any:
                body = json.dumps(payload, default=lambda number: number.item()).encode()
                async with gate:
                    return await self._post(client, body, read, deadline)

            yield post

    async def _post(self, client: Any, body: bytes, read: Read, deadline: float | None) -> Any:
        last = None
        for attempt in itertools.count():
            await self._pace(deadline, last)
            try:
                return await self._exchange(client, body, read, deadline)
            except RequestError as error:
                last = error
            # Doubled each time, less a part that differs by request but not by run.
            backoff = min(MIN_BACKOFF * 2.0 ** min(attempt, 32), MAX_BACKOFF)
            wait = max(backoff * random.Random(b"%d %b" % (attempt, body)).uniform(0.5, 1), last.wait)
            if last.retry and deadline is not None and self.clock() + wait >= deadline:
                raise self._deadline_exceeded(last)
            if not last.retry or attempt >= self.retries or wait > MAX_WAIT:
                tries = f" at try {attempt + 1} of {self.retries + 1}" if last.retry else ""
                raise RequestError(f"{self.url} {last.what}{tries}", last.todo, status=last.status)
            await self.sleep(wait)

    async def _pace(self, deadline: float | None, last: RequestError | None) -> None:
        """Waits until the next request may start, which must be before the deadline."""
        with self._lock:
            now = self.clock()
            start = max(now, self._next_start)
            if deadline is not None and start >= deadline:
                raise self._deadline_exceeded(last)
            self._next_start = start + 60 / self.requests_per_minute
        if start > now:
            await self.sleep(start - now)

    def _deadline_exceeded(self, last: RequestError | None) -> DeadlineExceeded:
        met = "" if last is None else f" (at the last try it {last.what})"
        return DeadlineExceeded(f"{self.url} gave nothing before the deadline{met}: allow more time or ask for less")

    async def _exchange(self, client: Any, body: bytes, read: Read, deadline: float | None) -> Any:
        """What `read` makes of the response to one request."""
        import httpx

        found = bytearray()
        seconds = self.timeout if deadline is None else min(self.timeout, deadline - self.clock())
        self.on_request()
        try:
            async with asyncio.timeout(seconds), client.stream("POST", self.url, content=body) as response:
                async for part in response.aiter_bytes():
                    found += part
                    if len(found) > MAX_RESPONSE:
                        todo = self.advice.get("size", "ask for less")
                        raise RequestError(f"sent more than {MAX_RESPONSE >> 20} MiB", todo)
        except TimeoutError:
            todo = self.advice.get("timeout", "raise timeout")
            raise RequestError("did not answer in time", todo, retry=True) from None
        except httpx.ConnectError as error:
            raise _connection_error(error) from None
        except httpx.RequestError as error:
            what = f"broke off its answer ({type(error).__name__})"
            raise RequestError(what, "look at the server's log", retry=True) from None
        if not response.is_success:
            status = response.status_code
            retry = status in (408, 429) or status >= 500
            todo = "look at the server's log, or try again later" if retry else "check the URL"
            wait = _parse_retry_after(response.headers.get("Retry-After", ""))
            what, todo = f"answered {status} ({self._quote(found)})", self.advice.get(status, todo)
            raise RequestError(what, todo, status=status, retry=retry, wait=wait)
        try:
            return read(json.loads(found))
        except MALFORMED:
            what, todo = f"sent no {self.content} ({self._quote(found)})", self.advice.get("content", "check the URL")
            raise RequestError(what, todo, retry=True) from None

    def _quote(self, body: bytearray) -> str:
        """What the server said, in one short line, without the key."""
        try:
            found = json.loads(body)
            found = found[0] if isinstance(found, list) else found
            found = found.get("error", found)
            text = found if isinstance(found, str) else str(found.get("message") or found.get("detail") or found)
        except MALFORMED:
            text = body.decode(errors="replace")
        text = text.replace(self.api_key, "***") if self.api_key else text
        line = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
        return (line if len(line) <= 200 else line[:197] + "...") or "and nothing else"


def _check_url(url: str) -> None:
    """Raises `InputError` for a URL that cannot be used, and does not show one that may hold a secret."""
    try:
        import httpx
    except ImportError as error:
        what = f"the package httpx cannot be imported ({error})"
        raise BackendError(f'{what}; run: pip install "vishwamai[remote]"') from None
    has_secret, is_usable = not {"@", "?", "#"}.isdisjoint(str(url)), False
    with contextlib.suppress(TypeError, httpx.InvalidURL):
        parts = httpx.URL(url)
        has_port = parts.port is None or 0 < parts.port < 65536
        is_usable = parts.scheme in ("http", "https") and parts.host and has_port and re.fullmatch("[!-~]+", url)
    if has_secret or not is_usable:
        shown = "" if has_secret else f"is {str(url)[:200]!r}; it "
        rules = "http or https, ASCII, and no user, query or fragment: the key goes in api_key"
        raise InputError(f"the endpoint's URL {shown}must be like http://host:port/v1 ({rules})")


def _connection_error(error: Exception) -> RequestError:
    """Why there is no connection, by the first error with a number below httpx's own."""
    cause: Any = error
    while cause is not None and not getattr(cause, "errno", None):
        is_group = isinstance(cause, ExceptionGroup)  # one for each address of the host
        cause = cause.exceptions[0] if is_group else cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RequestError(f"has a certificate that is not trusted ({cause.verify_message})", "check the URL")
    is_system = isinstance(cause, OSError) and not isinstance(cause, socket.gaierror | ssl.SSLError)
    reason = os.strerror(cause.errno) if is_system else error
    return RequestError(f"could not be reached ({reason})", "check the URL, and that the server runs", retry=True)


def _parse_retry_after(header: str) -> float:
    """The seconds that a Retry-After header asks for, as a number or a date; 0 where it is neither."""
    with contextlib.suppress(ValueError):
        return float(header)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    return 0.0
