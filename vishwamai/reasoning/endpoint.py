"""Posts JSON to one URL until it is answered: the standard library's HTTP, tried again where that can help, and paced.

It knows status codes and clocks, and not what the answers mean. Redirects are not followed and the environment's
proxies not used, so the key goes to the host of the URL and to no other; no error shows it.
"""

import asyncio
import contextlib
import email.utils
import http.client
import json
import math
import os
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from vishwamai.errors import InputError
from vishwamai.reasoning.model import seed_of

T = TypeVar("T")
KEY = "OPENAI_API_KEY"
LARGEST = 64 * 2**20  # bytes of an answer
FIRST_WAIT, LONGEST_BACKOFF, LONGEST_WAIT = 0.5, 30.0, 300.0  # seconds between two tries
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
ADVICE = {
    400: "check the sampling parameters and the length of the prompt",
    401: f"check the key (api_key, or the variable {KEY})",
    403: f"check what the key may use (api_key, or the variable {KEY})",
    404: "check the URL, the model's name, and whether the endpoint wants chat=True or not",
    429: "ask for less at once (concurrency, requests_per_minute), or try again later",
}


class EndpointError(Exception):
    """A request that did not work: what happened and what to do. `again`: a second try may help, after `wait` seconds.

    `status` is the answer's, or None.
    """

    def __init__(self, what: str, todo: str, *, status: int | None = None, again: bool = False, wait: float = 0.0):
        super().__init__(f"{what}: {todo}")
        self.what, self.todo, self.status, self.again, self.wait = what, todo, status, again, wait


class TimedOut(Exception):
    """The deadline passed before a request was answered; `last` is what its last try met, if there was one."""

    def __init__(self, url: str, last: EndpointError | None):
        met = "" if last is None else f" (at the last try it {last.what})"
        super().__init__(f"{url} gave nothing before the deadline{met}: allow more time or ask for less")


class Endpoint:
    """The URL `url` + `path`. `gap` is the least time between two requests, in seconds. `sent` is called for each one.

    Raises `InputError` for a URL or a key that cannot be used.
    """

    def __init__(
        self,
        url: str,
        path: str,
        api_key: str | None,
        *,
        timeout: float,
        retries: int,
        gap: float,
        sent: Callable[[], None],
        sleep: Callable[[float], Coroutine[Any, Any, None]],
        clock: Callable[[], float],
    ):
        parts = _address(url)
        self.url = url.rstrip("/") + path
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/") + path
        self._key = _key(api_key)
        self._timeout, self._retries, self._gap, self._sent = timeout, retries, gap, sent
        self._sleep, self._clock = sleep, clock
        self._lock, self._next = threading.Lock(), -math.inf

    async def post(
        self, gate: asyncio.Semaphore, deadline: float | None, payload: dict[str, Any], read: Callable[[Any], T]
    ) -> T:
        """Returns what `read` makes of the answer, broken where it cannot. Raises `EndpointError`, `TimedOut`."""
        body = json.dumps(payload, default=lambda number: number.item()).encode()
        last, attempt = None, 0
        async with gate:
            while True:
                await self._pace(deadline, last)
                try:
                    return self._understood(await asyncio.to_thread(self._exchange, body, deadline), read)
                except EndpointError as failure:
                    last = failure
                wait = max(last.wait, _backoff(body, attempt))
                if last.again and deadline is not None and self._clock() + wait >= deadline:
                    raise TimedOut(self.url, last)
                if not last.again or attempt >= self._retries or wait > LONGEST_WAIT:
                    raise self._final(last, attempt + 1)
                await self._sleep(wait)
                attempt += 1

    async def _pace(self, deadline: float | None, last: EndpointError | None) -> None:
        """Waits for this request's turn, which it takes where it comes before the deadline."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            if deadline is not None and turn >= deadline:
                raise TimedOut(self.url, last)
            self._next = turn + self._gap
        if turn > now:
            await self._sleep(turn - now)

    def _exchange(self, body: bytes, deadline: float | None) -> bytes:
        """The body of a good answer to one request."""
        ends = self._clock() + self._timeout
        ends = ends if deadline is None else min(ends, deadline)
        connection = self._connection(self._left(ends))
        headers = {"Content-Type": "application/json", "User-Agent": "vishwamai", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            self._sent()
            connection.connect()
            with _until(connection.sock, self._left(ends)):
                connection.request("POST", self._path, body, headers)
                with connection.getresponse() as response:
                    found = self._contents(response)
                    if response.status // 100 != 2:
                        raise self._refusal(response.status, response.headers.get("Retry-After"), found)
                    return found
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise _broken(error) from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def _left(self, ends: float) -> float:
        """Seconds until `ends`, as sockets take them: never 0, which to them means not to wait at all."""
        return min(max(ends - self._clock(), 0.001), 86400.0)

    def _contents(self, response: http.client.HTTPResponse) -> bytes:
        """The answer's body, piece by piece, so that a far too long one is not taken whole."""
        parts, size, announced = [], 0, response.length
        while (announced is None or size < announced) and (part := response.read1(65536)):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise EndpointError(f"sent more than {LARGEST >> 20} MiB", "lower max_tokens, n or logprobs")
        if announced is not None and size < announced:
            raise http.client.IncompleteRead(b"", announced - size)
        return b"".join(parts)

    def _understood(self, body: bytes, read: Callable[[Any], T]) -> T:
        try:
            return read(json.loads(body))
        except UNREADABLE:
            said = f"sent no completion ({self._message(body)})"
            raise EndpointError(said, "check that the endpoint is compatible with OpenAI's", again=True) from None

    def _refusal(self, status: int, retry_after: str | None, body: bytes) -> EndpointError:
        again = status in (408, 429) or status >= 500
        other = "look at the server's log, or try again later" if again else "check the URL"
        todo = ADVICE.get(400 if status == 422 else status, other)
        what = f"answered {status} ({self._message(body)})"
        return EndpointError(what, todo, status=status, again=again, wait=_seconds(retry_after) if again else 0.0)

    def _message(self, body: bytes) -> str:
        """What the server said, in one short line, without the key."""
        try:
            found = json.loads(body)
            found = found[0] if isinstance(found, list) else found
            found = found.get("error", found)
            text = found if isinstance(found, str) else str(found.get("message") or found.get("detail") or found)
        except UNREADABLE:
            text = body.decode(errors="replace")
        text = text.replace(self._key, "***") if self._key else text
        line = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
        return (line if len(line) <= 200 else line[:197] + "...") or "and nothing else"

    def _final(self, last: EndpointError, tries: int) -> EndpointError:
        """The failure with the URL, and how often it was tried."""
        often = f" at try {tries} of {self._retries + 1}" if last.again else ""
        return EndpointError(f"{self.url} {last.what}{often}", last.todo, status=last.status)


def _address(url: str) -> urllib.parse.SplitResult:
    """The parts of a URL that can be used; one that may hold a secret is not shown."""
    wanted = "it must be like http://host:port/v1"
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"the endpoint's URL is not a printable ASCII text without spaces; {wanted}")
    if "@" in url or "?" in url or "#" in url:
        raise InputError(f"the endpoint's URL has a user, a query or a fragment; {wanted}, and the key goes in api_key")
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"the endpoint's URL is {url[:200]!r}; {wanted}, with http or https")
    return parts


def _key(api_key: str | None) -> str:
    """The key, "" for none. One that is no header's value would be quoted by the error of whoever sends it."""
    key = os.environ.get(KEY, "") if api_key is None else api_key
    if not isinstance(key, str) or not key.isascii() or not (key.isprintable() and " " not in key):
        raise InputError(f"the endpoint's key (api_key, or the variable {KEY}) has characters that no key has")
    return key


@contextlib.contextmanager
def _until(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Shuts the connection after so many seconds and raises `TimeoutError`: its own timeout is that of one piece.

    A server that sends a byte now and then, of a header for instance, would be waited for without end.
    """
    late = threading.Event()

    def shut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which says goodbye and waits

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


def _broken(error: Exception) -> EndpointError:
    """What a connection that did not hold means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return EndpointError(f"has a certificate that is not trusted ({error.verify_message})", "check the URL")
    if isinstance(error, TimeoutError):
        return EndpointError("did not answer in time", "raise timeout, or lower max_tokens", again=True)
    if isinstance(error, http.client.HTTPException):
        return EndpointError(f"broke off its answer ({type(error).__name__})", "look at the server's log", again=True)
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return EndpointError(f"could not be reached ({why})", "check the URL, and that the server runs", again=True)


def _backoff(body: bytes, attempt: int) -> float:
    """Seconds before the next try: doubled each time, less a part that differs by request but not by run."""
    longest = min(FIRST_WAIT * 2.0 ** min(attempt, 32), LONGEST_BACKOFF)
    return longest * (1 - seed_of(attempt, body.decode()) / 2**64)


def _seconds(retry_after: str | None) -> float:
    """What a Retry-After header asks for: seconds, or a date; 0 where it is neither."""
    try:
        wait = float(retry_after or 0)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(wait, 0.0) if math.isfinite(wait) else 0.0
