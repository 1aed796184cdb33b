"""A model behind an OpenAI-compatible endpoint: each completion a request of its own, many of them under way at once.

It knows which fields to send and what to do where an endpoint lacks something; `http_client` sends, `replies` reads.
"""

import asyncio
import dataclasses
import hashlib
import math
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from vishwamai.checks import check_number, check_whole, make_settings
from vishwamai.errors import InputError
from vishwamai.generation.sampling import MAX_LOGPROBS, SamplingParams
from vishwamai.http_client import DeadlineExceeded, JSONClient, Post, RequestError
from vishwamai.reasoning import replies
from vishwamai.reasoning.model import Completion, Prompt, Usage, join_prompt, seed_of

T = TypeVar("T")
KEY = "OPENAI_API_KEY"
VLLM_FIELDS = ("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos")
CUT = Completion(text="", tokens=0, finish_reason="length")
UNSUPPORTED = (400, 422)  # what servers answer to a field that they do not support
ADVICE = {
    400: "check the sampling parameters and the length of the prompt",
    401: f"check the key (api_key, or the variable {KEY})",
    403: f"check what the key may use (api_key, or the variable {KEY})",
    404: "check the URL, the model's name, and whether the endpoint wants chat=True or not",
    422: "check the sampling parameters and the length of the prompt",
    429: "ask for less at once (concurrency, requests_per_minute), or try again later",
    "content": "check that the endpoint is compatible with OpenAI's",
    "size": "lower max_tokens, n or logprobs",
    "timeout": "raise timeout, or lower max_tokens",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """How an endpoint is asked. Raises `InputError` for what is out of range.

    One request draws all completions of a prompt where they need no seeds of their own (`distinct_seeds`, and
    `supports_seed`: one is sent) and `parallel_n` is not False. Where the endpoint will not, True fails.
    """

    chat: bool = False  # each prompt is one user message for /chat/completions; else it goes to /completions
    api_key: str | None = dataclasses.field(default=None, repr=False)  # None: the variable OPENAI_API_KEY; "": none
    timeout: float = 60.0  # seconds, for a whole request
    retries: int = 5  # of a request that met 408, 429, 5xx, a timeout, a broken connection or half a response
    concurrency: int = 8  # requests of a call that are under way at once
    requests_per_minute: float | None = None
    top_logprobs: int = 5  # the most that the endpoint gives, 0 to 20
    parallel_n: bool | Literal["auto"] = "auto"
    distinct_seeds: bool = True
    supports_seed: bool = True
    seed_bits: int = 63  # how many of a seed's are sent
    identity: str | None = None  # None: it stands for URL and model, for an endpoint does not say when weights change

    def __post_init__(self):
        check_number("timeout", self.timeout, above=0)
        check_whole("retries", self.retries, 0, 1000)
        check_whole("concurrency", self.concurrency, 1, 1024)
        check_whole("top_logprobs", self.top_logprobs, 0, MAX_LOGPROBS)
        check_whole("seed_bits", self.seed_bits, 1, 64)
        if self.requests_per_minute is not None:
            check_number("requests_per_minute", self.requests_per_minute, above=0)
        if self.parallel_n not in (True, False, "auto"):
            raise InputError(f'parallel_n is {self.parallel_n!r}; it must be True, False or "auto"')


class Remote:
    """`model` at `url`, which is like http://host:port/v1. `settings` are fields of `EndpointSettings`.

    A completion has `logprob` and `likeliest` where `SamplingParams.logprobs` asked. Where the server reports no usage,
    words are counted. Raises `InputError` for arguments that are unknown or out of range, `BackendError` without httpx
    (the extra `remote`); the methods raise `BackendError`.
    """

    def __init__(self, url: str, model: str, **settings: Any):
        if not isinstance(model, str) or not model:
            raise InputError(f"model is {model!r}; it must be the name by which the endpoint knows it")
        self.settings = how = make_settings(EndpointSettings, "Remote", settings)
        self.usage, self.model, self._lock = Usage(), model, threading.Lock()
        self._can_echo = False if how.chat else None  # None: nobody knows yet
        self._client = JSONClient(
            url=url,
            path="/chat/completions" if how.chat else "/completions",
            api_key=os.environ.get(KEY, "") if how.api_key is None else how.api_key,
            timeout=how.timeout,
            retries=how.retries,
            concurrency=how.concurrency,
            requests_per_minute=how.requests_per_minute or math.inf,
            content="completion",
            advice=ADVICE,
            on_request=lambda: self._add_usage(device_calls=1),
        )
        digest = hashlib.blake2b(repr((self._client.url, model)).encode(), digest_size=8).hexdigest()
        self.identity = f"remote-{digest}" if how.identity is None else how.identity

    def __repr__(self) -> str:
        return f"Remote({self._client.url!r}, {self.model!r})"

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: Sequence[int],
        sampling: SamplingParams,
        seeds: Sequence[int],
        *,
        deadline: float | None = None,
    ) -> list[list[Completion]]:
        """`n[i]` continuations of prompt i. What did not come before `deadline` is empty, with the reason "length".

        Raises `BackendError` where a request fails for good, and where nothing at all came before the deadline.
        """
        jobs = list(zip(map(join_prompt, prompts), n, seeds, strict=True))
        rows = self._run(lambda post: _gather(self._draw(post, sampling, *job) for job in jobs), deadline)
        late = [made for row in rows for made in row if isinstance(made, DeadlineExceeded)]
        if late and len(late) == sum(n):
            raise late[0]
        return [[CUT if isinstance(made, DeadlineExceeded) else made for made in row] for row in rows]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """The log-probability in nats of each of prompt i's continuations.

        A token that spans the end of the prompt counts as the continuation's. Where the endpoint gives no
        log-probabilities of a prompt, a continuation must be one of the likeliest next tokens. Raises `BackendError`
        where it is not, and for whatever is not there before the deadline.
        """
        jobs = list(zip(map(join_prompt, prompts), continuations, strict=True))
        return self._run(lambda post: _gather(self._score(post, *job) for job in jobs), deadline)

    def _run(self, work: Callable[[Post], Awaitable[T]], deadline: float | None) -> T:
        """What `work` makes of a way to post. Where this thread runs a loop, as a notebook's does, another runs it."""

        async def main() -> T:
            async with self._client.session(deadline) as post:
                return await work(post)

        start = self._client.clock()
        try:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return asyncio.run(main())
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(asyncio.run, main()).result()
        finally:
            self._add_usage(calls=1, seconds=self._client.clock() - start)

    async def _draw(
        self, post: Post, sampling: SamplingParams, prompt: str, n: int, seed: int
    ) -> list[Completion | DeadlineExceeded]:
        """The completions of one prompt; a `DeadlineExceeded` stands for each that did not come in time."""
        how = self.settings
        if n > 1 and how.parallel_n is not False and not (how.distinct_seeds and how.supports_seed):
            try:
                found = await self._complete(post, sampling, prompt, n, seed)
                if len(found) == n:
                    return found
                if how.parallel_n is True:
                    what = f"{self._client.url} gave {len(found)} of {n} completions"
                    raise RequestError(what, "set parallel_n to False")
            except RequestError as error:
                is_about_n = error.status in UNSUPPORTED and re.search(r"\bn\b", error.what)
                if how.parallel_n is True or not is_about_n:
                    raise
        rows = await _gather(self._complete(post, sampling, prompt, 1, seed_of(seed, j)) for j in range(n))
        return [completion for row in rows for completion in row]

    async def _complete(
        self, post: Post, sampling: SamplingParams, prompt: str, n: int, seed: int
    ) -> list[Completion | DeadlineExceeded]:
        """The completions that one request gives, at most `n`."""

        def read(response: Any) -> list[Completion]:
            found = replies.completions(response, n, sampling)
            self._add_tokens(response, prompt, sum(completion.tokens for completion in found))
            return found

        try:
            return await post(self._body(sampling, prompt, seed) | ({"n": n} if n > 1 else {}), read)
        except DeadlineExceeded as error:
            return [error] * n

    async def _score(self, post: Post, prompt: str, texts: Sequence[str]) -> list[float]:
        """The log-probabilities of one prompt's continuations."""
        if self._can_echo is not False:
            scores = await self._score_echo(post, prompt, texts)
            if scores is not None:
                self._can_echo = True if any(texts) else self._can_echo
                return scores
        likely = await self._next_tokens(post, prompt)
        self._can_echo = bool(self._can_echo)
        missing = [text for text in texts if text and text not in likely]
        if missing:
            what = f"{self._client.url} gives no log-probabilities of a prompt, and {missing[0][:60]!r} is none of"
            todo = "raise top_logprobs, or use an endpoint whose /completions can echo"
            raise RequestError(f"{what} the {len(likely)} likeliest next tokens", todo)
        return [likely[text] if text else 0.0 for text in texts]

    async def _score_echo(self, post: Post, prompt: str, texts: Sequence[str]) -> list[float] | None:
        """The log-probabilities of continuations, each echoed with its prompt; None where the endpoint cannot."""

        async def score(text: str) -> float | None:
            def read(response: Any) -> float | None:
                found = replies.logprob_after(prompt, prompt + text, response["choices"][0])
                self._add_tokens(response, prompt + text, 1)
                return found

            body = {"temperature": 0, "max_tokens": 1, "echo": True, "logprobs": 1}
            return await post({"model": self.model, "prompt": prompt + text, **body}, read) if text else 0.0

        try:
            scores = await _gather(map(score, texts))
        except RequestError as error:
            if error.status not in UNSUPPORTED:
                raise
            return None
        known = [score for score in scores if score is not None]
        return known if len(known) == len(scores) else None

    async def _next_tokens(self, post: Post, prompt: str) -> dict[str, float]:
        """The log-probabilities of the likeliest tokens after a prompt, and of the one that was drawn."""
        sampling = SamplingParams(max_tokens=1, logprobs=self.settings.top_logprobs)

        def read(response: Any) -> dict[str, float]:
            replies.completions(response, 1, sampling)  # raises where log-probabilities are missing
            self._add_tokens(response, prompt, 1)
            steps = replies.steps(response["choices"][0])[:1]
            return {token: logprob for own, x, likeliest in steps for token, logprob in [(own, x), *likeliest.items()]}

        return await post(self._body(sampling, prompt, 0), read)

    def _body(self, sampling: SamplingParams, prompt: str, seed: int) -> dict[str, Any]:
        """The request for one completion."""
        how = self.settings
        body: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"messages": [{"role": "user", "content": prompt}]} if how.chat else {"prompt": prompt}
        if sampling.max_tokens is not None or not how.chat:  # /completions would make 16 tokens; null lifts that
            body["max_tokens"] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = sampling.stop
        if how.supports_seed:
            body["seed"] = int(seed) % 2**how.seed_bits
        if sampling.logprobs is not None:
            most = min(sampling.logprobs, how.top_logprobs)
            body |= {"logprobs": True, "top_logprobs": most} if how.chat else {"logprobs": most}
        default = SamplingParams()
        values = {name: getattr(sampling, name) for name in VLLM_FIELDS}
        return body | {name: value for name, value in values.items() if value not in (getattr(default, name), -1)}

    def _add_tokens(self, response: Any, prompt: str, made: int) -> None:
        """Adds a response's tokens, as the server counts them where it does."""
        read, counted = replies.read_usage(response, "prompt_tokens"), replies.read_usage(response, "completion_tokens")
        read, made = len(prompt.split()) if read is None else read, made if counted is None else counted
        self._add_usage(prompt_tokens=read, prefill_tokens=read, completion_tokens=made)

    def _add_usage(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                setattr(self.usage, name, getattr(self.usage, name) + amount)


async def _gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of what runs at the same time. The first failure ends the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
