"""A model behind an OpenAI-compatible endpoint: each completion a request of its own, many of them under way at once.

It knows which fields to send and what to do where an endpoint lacks something; `endpoint` sends, `replies` reads.
"""

import asyncio
import functools
import hashlib
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from vishwamai.checks import check_whole
from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import MAX_LOGPROBS, SamplingParams
from vishwamai.reasoning import replies
from vishwamai.reasoning.endpoint import Endpoint, EndpointError, TimedOut
from vishwamai.reasoning.model import Completion, Prompt, Usage, join_prompt, seed_of

T = TypeVar("T")
Post = Callable[[dict[str, Any], Callable[[Any], Any]], Awaitable[Any]]  # a request, and what reads its answer
UNUSUAL = ("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos")  # vLLM's names
CUT = Completion(text="", tokens=0, finish_reason="length")
CANNOT = (400, 422)  # what servers answer to a field that they do not support


class Remote:
    """`model` at `url`, which is like http://host:port/v1: its /completions of the prompt, or with `chat` its
    /chat/completions of one user message.

    The key is `api_key` or the variable OPENAI_API_KEY; without one none is sent. `concurrency` bounds the requests of
    a call that are under way at once, `requests_per_minute` paces them. A request that meets 429, 5xx, a timeout (after
    `timeout` seconds, or at the deadline), a broken connection or half an answer is tried `retries` more times, after
    growing waits or those that the server asks for, and never beyond the deadline.

    Each completion is drawn with a seed of its own, of which `seed_bits` bits are sent, so each is a request. With
    `distinct_seeds=False`, or where `supports_seed=False` says that no seed is to be sent, one request draws all
    completions of a prompt. Where the server will not, `parallel_n` "auto" asks one by one and True fails; False never
    tries. `top_logprobs` is the most that the endpoint gives, 0 to 20. A completion has `logprob` and `likeliest` where
    `SamplingParams.logprobs` asked. Where the server reports no usage, words are counted.

    `identity` stands for URL and model by default: an endpoint does not say when its weights change. `sleep` and
    `clock` are for tests. Raises `InputError` for arguments out of range; the methods raise `BackendError`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        chat: bool = False,
        identity: str | None = None,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        retries: int = 5,
        timeout: float = 60.0,
        top_logprobs: int = 5,
        parallel_n: bool | Literal["auto"] = "auto",
        distinct_seeds: bool = True,
        supports_seed: bool = True,
        seed_bits: int = 63,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        check_whole("concurrency", concurrency, 1, 1024)
        check_whole("retries", retries, 0, 1000)
        check_whole("top_logprobs", top_logprobs, 0, MAX_LOGPROBS)
        check_whole("seed_bits", seed_bits, 1, 64)
        _above_zero("timeout", timeout)
        if not isinstance(model, str) or not model:
            raise InputError(f"model is {model!r}; it must be the name by which the endpoint knows it")
        _above_zero("requests_per_minute", math.inf if requests_per_minute is None else requests_per_minute)
        if parallel_n not in (True, False, "auto"):
            raise InputError(f'parallel_n is {parallel_n!r}; it must be True, False or "auto"')
        self.usage, self.model, self.chat = Usage(), model, chat
        self._concurrency, self._clock, self._lock = concurrency, clock, threading.Lock()
        self._top_logprobs, self._seed_bits = top_logprobs, seed_bits if supports_seed else None
        self._together = parallel_n is not False and not (distinct_seeds and supports_seed)
        self._falls_back = parallel_n == "auto"
        self._echoes: bool | None = False if chat else None  # None: nobody knows yet
        self._endpoint = Endpoint(
            url,
            "/chat/completions" if chat else "/completions",
            api_key,
            timeout=timeout,
            retries=retries,
            gap=60 / (requests_per_minute or math.inf),
            sent=lambda: self._note(device_calls=1),
            sleep=sleep,
            clock=clock,
        )
        digest = hashlib.blake2b(repr((self._endpoint.url, model)).encode(), digest_size=8).hexdigest()
        self.identity = f"remote-{digest}" if identity is None else identity

    def __repr__(self) -> str:
        return f"Remote({self._endpoint.url!r}, {self.model!r})"

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
        asked = list(zip(map(join_prompt, prompts), n, seeds, strict=True))
        rows = self._run(lambda post: _all(self._draw(post, sampling, *one) for one in asked), deadline)
        late = [made for row in rows for made in row if isinstance(made, TimedOut)]
        if late and len(late) == sum(n):
            raise BackendError(str(late[0]))
        return [[CUT if isinstance(made, TimedOut) else made for made in row] for row in rows]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """The log-probability in nats of each of prompt i's continuations.

        A token that spans the end of the prompt counts as the continuation's. Where the endpoint gives no
        log-probabilities of a prompt, a continuation must be one of the likeliest next tokens. Raises `BackendError`
        where it is not, and for whatever is not there before the deadline.
        """
        asked = list(zip(map(join_prompt, prompts), continuations, strict=True))
        return self._run(lambda post: _all(self._rate(post, *one) for one in asked), deadline)

    def _run(self, work: Callable[[Post], Awaitable[T]], deadline: float | None) -> T:
        """What `work` makes of a way to post. Where this thread runs a loop, as a notebook's does, another runs it."""

        async def main() -> T:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._concurrency))
            gate = asyncio.Semaphore(self._concurrency)
            return await work(functools.partial(self._endpoint.post, gate, deadline))

        begun = self._clock()
        try:
            if not _is_in_loop():
                return asyncio.run(main())
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(asyncio.run, main()).result()
        except (EndpointError, TimedOut) as error:
            raise BackendError(str(error)) from None
        finally:
            self._note(calls=1, seconds=self._clock() - begun)

    async def _draw(
        self, post: Post, sampling: SamplingParams, text: str, many: int, seed: int
    ) -> list[Completion | TimedOut]:
        """The completions of one prompt; a `TimedOut` stands for each that did not come in time."""
        if many > 1 and self._together:
            made = await self._draw_together(post, sampling, text, many, seed)
            if made is not None:
                return made
        return await _all(self._draw_one(post, sampling, text, seed_of(seed, j)) for j in range(many))

    async def _draw_one(self, post: Post, sampling: SamplingParams, text: str, seed: int) -> Completion | TimedOut:
        try:
            [made] = await post(self._body(text, sampling, seed), self._reader(text, 1, sampling))
            return made
        except TimedOut as late:
            return late

    async def _draw_together(
        self, post: Post, sampling: SamplingParams, text: str, many: int, seed: int
    ) -> list[Completion | TimedOut] | None:
        """The completions of a prompt by one request; None where the server will not and can be asked one by one.

        Fewer than wanted are left aside, so that what is drawn one by one is the same however the server refused.
        """
        try:
            made = await post(self._body(text, sampling, seed) | {"n": many}, self._reader(text, many, sampling))
        except TimedOut as late:
            return [late for _ in range(many)]
        except EndpointError as failure:
            if self._falls_back and failure.status in CANNOT and re.search(r"\bn\b", failure.what):
                return None
            raise
        if len(made) < many and not self._falls_back:
            raise EndpointError(
                f"{self._endpoint.url} gave {len(made)} of {many} completions", "set parallel_n to False"
            )
        return made if len(made) == many else None

    def _reader(self, text: str, many: int, sampling: SamplingParams) -> Callable[[Any], list[Completion]]:
        def read(answer: Any) -> list[Completion]:
            made = replies.completions(answer, many, sampling)
            self._note_tokens(answer, text, sum(c.tokens for c in made))
            return made

        return read

    async def _rate(self, post: Post, prompt: str, texts: Sequence[str]) -> list[float]:
        """The log-probabilities of one prompt's continuations."""
        found = await self._echoed(post, prompt, texts) if self._echoes is not False else None
        if found is not None:
            self._echoes = True if any(texts) else self._echoes
            return found
        likely = await self._next_tokens(post, prompt)
        if self._echoes is None:
            self._echoes = False
        missing = [text for text in texts if text and text not in likely]
        if missing:
            what = f"{self._endpoint.url} gives no log-probabilities of a prompt, and {missing[0][:60]!r} is none of"
            todo = "raise top_logprobs, or use an endpoint whose /completions can echo"
            raise EndpointError(f"{what} the {len(likely)} likeliest next tokens", todo)
        return [likely[text] if text else 0.0 for text in texts]

    async def _echoed(self, post: Post, prompt: str, texts: Sequence[str]) -> list[float] | None:
        """The log-probabilities of continuations, each read with its prompt; None where the endpoint cannot."""

        async def one(text: str) -> float | None:
            if not text:
                return 0.0
            both = prompt + text
            body = {"model": self.model, "prompt": both, "temperature": 0, "max_tokens": 1, "echo": True, "logprobs": 1}

            def read(answer: Any) -> float | None:
                found = replies.logprob_after(prompt, both, answer["choices"][0])
                self._note_tokens(answer, both, 1)
                return found

            return await post(body, read)

        try:
            found = await _all(one(text) for text in texts)
        except EndpointError as failure:
            if failure.status not in CANNOT:
                raise
            return None
        scores = [score for score in found if score is not None]
        return scores if len(scores) == len(found) else None

    async def _next_tokens(self, post: Post, prompt: str) -> dict[str, float]:
        """The likeliest tokens after a prompt, and the one that was drawn, with their log-probabilities."""
        sampling = SamplingParams(max_tokens=1, logprobs=self._top_logprobs)
        note = self._reader(prompt, 1, sampling)

        def read(answer: Any) -> dict[str, float]:
            note(answer)
            found = replies.steps(answer["choices"][0])[:1]
            return {
                name: logprob for token, own, likeliest in found for name, logprob in [(token, own), *likeliest.items()]
            }

        return await post(self._body(prompt, sampling, 0), read)

    def _body(self, text: str, sampling: SamplingParams, seed: int) -> dict[str, Any]:
        """The request for one completion."""
        body: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"messages": [{"role": "user", "content": text}]} if self.chat else {"prompt": text}
        if sampling.max_tokens is not None or not self.chat:  # /completions would make 16 tokens; null lifts that
            body["max_tokens"] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = sampling.stop
        if self._seed_bits is not None:
            body["seed"] = int(seed) % 2**self._seed_bits
        if sampling.logprobs is not None:
            most = min(sampling.logprobs, self._top_logprobs)
            body |= {"logprobs": True, "top_logprobs": most} if self.chat else {"logprobs": most}
        usual = SamplingParams()
        values = {name: getattr(sampling, name) for name in UNUSUAL}
        return body | {name: value for name, value in values.items() if value not in (getattr(usual, name), -1)}

    def _note_tokens(self, answer: Any, text: str, made: int) -> None:
        """Adds an answer's tokens, as the server counts them where it does."""
        read, told = replies.count(answer, "prompt_tokens"), replies.count(answer, "completion_tokens")
        read, made = len(text.split()) if read is None else read, made if told is None else told
        self._note(prompt_tokens=read, prefill_tokens=read, completion_tokens=made)

    def _note(self, **used: float) -> None:
        """Adds to the usage, which requests in several threads do."""
        with self._lock:
            for name, amount in used.items():
                setattr(self.usage, name, getattr(self.usage, name) + amount)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of what runs at the same time."""
    return list(await asyncio.gather(*work))


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _above_zero(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{name} is {value!r}; it must be a number above 0")
