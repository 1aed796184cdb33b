"""A model of this library as reasoning sees it: prompts in pieces, each piece read once, continued many at a time.

`generation.prefix_cache` makes the text. Of what it is given, a `VishwamAI`, it needs a `LanguageModel`. A piece's
tokens are those of the whole text where that text's tokens begin with its prompt's, else its own.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from vishwamai.checks import check_whole
from vishwamai.errors import BackendError, InputError
from vishwamai.generation.generator import Generator
from vishwamai.generation.prefix_cache import PrefixCache, split_requests
from vishwamai.generation.prefix_pool import PoolSizes
from vishwamai.generation.prefixes import Runs
from vishwamai.generation.programs import READ_LENGTHS
from vishwamai.generation.results import GeneratedRow
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import Completion, Model, Prompt, Usage, pieces, seed_of
from vishwamai.text.continuation import Continuation
from vishwamai.text.tokenizer import VishwamAITokenizer

JOBS = 1024  # of one device call; one number for all, since programs of other shapes differ in the last bits
PREFIX_BYTES = 512 << 20
MOST_RUNS = 1 << 16  # prompts whose tokens are remembered


class LanguageModel(Protocol):
    """What is needed of a `VishwamAI`."""

    @property
    def config(self) -> Any: ...

    @property
    def weights(self) -> Any: ...

    @property
    def tokenizer(self) -> VishwamAITokenizer: ...

    @functools.cached_property
    def generator(self) -> Generator: ...


class Local:
    """A local model. The numbers of a row depend on its prompt and seed alone, bit for bit, at any `width` and `rows`.

    `context` bounds a prompt and its continuation together (by default the model's own, at most 512), `rows` the
    prefixes that are kept (by default as many as 512 MiB hold, 16 to 1024), `width` the continuations of one
    device call, `tile` those that are decoded at once. Raises `InputError` for arguments out of range.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        context: int | None = None,
        rows: int | None = None,
        width: int = JOBS,
        tile: int = 32,
    ):
        context = int(min(model.config.max_length, 512)) if context is None else context
        check_whole("context", context, 2, model.config.max_length)
        rows = _rows(model, context) if rows is None else rows
        check_whole("rows", rows, 2, 1 << 20)
        check_whole("width", width, 1, JOBS)
        check_whole("tile", tile, 1, JOBS)
        self.model, self.usage, self.width = model, Usage(), width
        self._sizes = PoolSizes(rows=rows, context=context, requests=JOBS, batch=tile)
        self._stop_ids: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._runs: dict[tuple[str, ...], Runs] = {}
        self._identity: str | None = None
        self._known = model.weights

    @property
    def identity(self) -> str:
        """The model's shape and a hash of its weights."""
        weights = self._weights()
        if self._identity is None:
            config = self.model.config
            bits = self.model.generator.fingerprint(weights)
            self._identity = f"local-{seed_of(0, repr(config.stacked), *bits):016x}"
        return self._identity

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: Sequence[int],
        sampling: SamplingParams,
        seeds: Sequence[int],
        *,
        deadline: float | None = None,
    ) -> list[list[Completion]]:
        """As the protocol says. A deadline ends no call of the device early."""
        begun, weights = time.perf_counter(), self._weights()
        ends = (*sampling.stop_token_ids, *self._stop_token_ids(sampling.stop))
        asked = [
            (self.runs(prompt), dataclasses.replace(sampling, stop_token_ids=ends, seed=seed_of(seed, j)))
            for prompt, many, seed in zip(prompts, n, seeds, strict=True)
            for j in range(many)
        ]
        runs, params = [run for run, _ in asked], [own for _, own in asked]
        rows = self._cache.generate(weights, runs, params, max_requests=self.width, deadline=deadline)
        made = iter([self._completion(*pair) for pair in zip(runs, rows, strict=True)])
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(row.start for row in rows)
        self.usage.completion_tokens += sum(len(row.tokens) for row in rows)
        self._account(begun)
        return [[next(made) for _ in range(many)] for many in n]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """As the protocol says. Raises `BackendError` where the deadline comes before all were scored."""
        begun, weights = time.perf_counter(), self._weights()
        pairs = [
            (self.runs(p), self._new_tokens(p, c))
            for p, own in zip(prompts, continuations, strict=True)
            for c in own
            if c
        ]
        found: list[float] = []
        for part in split_requests(pairs, lambda pair: pair[0], self._cache.max_prompts, self.width):
            if deadline is not None and time.monotonic() >= deadline:
                done = f"{len(found)} of {len(pairs)} continuations were scored before the deadline"
                raise BackendError(f"{done}: allow more time or score fewer")
            found += self._cache.score(weights, [prompt for prompt, _ in part], [new for _, new in part])
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(sum(map(len, prompt)) + len(new) for prompt, new in pairs)
        self._account(begun)
        scores = iter(found)
        return [[next(scores) if text else 0.0 for text in own] for own in continuations]

    def features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """The hidden states of the last token of each prompt, `[n, D]` float32: what a learned head of values reads."""
        begun, weights = time.perf_counter(), self._weights()
        found = [np.zeros((0, self.model.config.d_model), np.float32)]
        runs = [self.runs(prompt) for prompt in prompts]
        for part in split_requests(runs, lambda run: run, self._cache.max_prompts, self._cache.max_prompts):
            found.append(self._cache.last_hidden_states(weights, part))
        self._account(begun)
        return np.concatenate(found)

    def runs(self, prompt: Prompt) -> Runs:
        """A prompt's tokens, a run for each piece (and for every 256 tokens of a longer one)."""
        own = pieces(prompt)
        if not own:
            raise InputError("a prompt is empty; give it at least one character")
        if own not in self._runs:
            if len(self._runs) >= MOST_RUNS:
                self._runs.clear()
            *rest, last = own
            before = self.runs(tuple(rest)) if rest else ()
            new = self._new_tokens(tuple(rest), last)
            most = READ_LENGTHS[-1]
            self._runs[own] = before + tuple(new[at : at + most] for at in range(0, len(new), most))
        return self._runs[own]

    def _new_tokens(self, prompt: Prompt, text: str) -> tuple[int, ...]:
        """The tokens of a text after a prompt."""
        tokenizer, own = self.model.tokenizer, pieces(prompt)
        if not own:
            return tuple(tokenizer.encode(text))
        before = [token for run in self.runs(own) for token in run]
        both = tokenizer.encode("".join(own) + text)
        if both[: len(before)] == before and len(both) > len(before):
            return tuple(both[len(before) :])
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    def _completion(self, prompt: Runs, row: GeneratedRow) -> Completion:
        tokenizer = self.model.tokenizer
        text = Continuation(tokenizer, [token for run in prompt for token in run], row.params.stop)
        return Completion(
            text=text.push(row.tokens, last=True),
            tokens=len(row.tokens),
            logprob=sum(row.logprobs),
            finish_reason=row.reason or "length",
            likeliest=tuple({tokenizer.decode([i]): x for i, x in reversed(top.items())} for top in row.top_logprobs),
        )

    def _stop_token_ids(self, stop: tuple[str, ...]) -> tuple[int, ...]:
        """Returns the tokens whose own text holds a stop text: rows end with them on the device."""
        if stop not in self._stop_ids:
            tokenizer = self.model.tokenizer
            texts = enumerate(tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
            self._stop_ids[stop] = tuple(i for i, text in texts if any(part in text for part in stop))
        return self._stop_ids[stop]

    def _weights(self) -> Any:
        """The model's weights; what was kept of other ones, before an adapter was set for instance, is forgotten."""
        weights = self.model.weights
        if weights is not self._known:
            self._known, self._identity = weights, None
            self._cache.clear()
        return weights

    def _account(self, begun: float) -> None:
        counts = self._cache.counts
        self.usage.device_calls, self.usage.prefill_tokens = counts.device_calls, counts.prefill_tokens
        self.usage.seconds += time.perf_counter() - begun

    @functools.cached_property
    def _cache(self) -> PrefixCache:
        g = self.model.generator
        settings = {"eos_ids": g.eos_ids, "compute": g.compute, "cache": g.cache, "text": g.text}
        return PrefixCache(g.cfg, self._sizes, **settings, sharding=g.sharding, programs=g.programs)


def as_model(model: Any) -> Model:
    """What has the protocol as it is, a `VishwamAI` as a `Local`. Raises `InputError` for anything else."""
    if hasattr(model, "identity") and hasattr(model, "usage"):
        return model
    if all(hasattr(model, name) for name in ("generator", "tokenizer", "weights", "config")):
        return Local(model)
    raise InputError(
        f"a {type(model).__name__} is no model: give a VishwamAI, or what has reasoning.model.Model's methods"
    )


def _rows(model: LanguageModel, context: int) -> int:
    """The prefixes that the memory for them holds."""
    cfg = model.config
    one = 2 * cfg.n_layers * context * cfg.n_kv_heads * cfg.d_cache * jax.numpy.dtype(model.generator.cache).itemsize
    return min(max(PREFIX_BYTES // one, 16), 1024)
