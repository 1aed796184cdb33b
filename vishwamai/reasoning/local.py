"""A `VishwamAI` behind reasoning's protocol: each piece of a prompt is read once, and continued many at a time.

`generation.prefix_cache` makes the tokens. A piece has the tokens that it has in the whole text, where these go on from
the tokens of the pieces before it; else those that it has alone.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vishwamai.checks import check_whole
from vishwamai.errors import BackendError, InputError
from vishwamai.generation.prefix_cache import PrefixCache, split_requests
from vishwamai.generation.prefix_pool import PoolSizes
from vishwamai.generation.prefixes import Runs
from vishwamai.generation.programs import PREFILL_CHUNKS
from vishwamai.generation.results import GeneratedRow
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import Completion, Model, Prompt, Usage, seed_of, split_prompt
from vishwamai.text.continuation import Continuation

MAX_REQUESTS = 1024  # of one device call; one number for all, since programs of other shapes differ in the last bits
PREFIX_BYTES = 512 << 20
TOKENIZED_PROMPTS = 1 << 16  # whose tokens are kept


class Local:
    """A local model. The numbers of a row depend on its prompt and seed alone, bit for bit, at any `width` and `rows`.

    `context` bounds a prompt and its continuation together (by default the model's own, at most 512), `rows` the
    prefixes that are kept (by default as many as 512 MiB hold, 16 to 1024), `width` the continuations of one
    device call, `tile` those that are decoded at once. Raises `InputError` for arguments out of range.
    """

    def __init__(
        self,
        model: Any,
        *,
        context: int | None = None,
        rows: int | None = None,
        width: int = MAX_REQUESTS,
        tile: int = 32,
    ):
        cfg = model.config
        context = int(min(cfg.max_length, 512)) if context is None else context
        check_whole("context", context, 2, cfg.max_length)
        if rows is None:
            itemsize = jax.numpy.dtype(model.generator.cache_dtype).itemsize
            row_bytes = 2 * cfg.n_layers * context * cfg.n_kv_heads * cfg.d_cache * itemsize
            rows = int(min(max(PREFIX_BYTES // row_bytes, 16), 1024))
        check_whole("rows", rows, 2, 1 << 20)
        check_whole("width", width, 1, MAX_REQUESTS)
        check_whole("tile", tile, 1, MAX_REQUESTS)
        self.model, self.usage, self.width = model, Usage(), width
        self._sizes = PoolSizes(slots=rows, context=context, requests=MAX_REQUESTS, batch=tile)
        self._runs = functools.lru_cache(TOKENIZED_PROMPTS)(self._tokenize)
        self._stop_token_ids = functools.cache(self._find_stop_token_ids)
        self._identity: str | None = None
        self._last_weights = model.weights

    @property
    def identity(self) -> str:
        """The model's shape and a hash of its weights."""
        weights = self._weights()
        if self._identity is None:
            bits = self.model.generator.fingerprint(weights)
            self._identity = f"local-{seed_of(0, repr(self.model.config.stacked), *bits):016x}"
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
        with self._measure() as weights:
            end_ids = (*sampling.stop_token_ids, *self._stop_token_ids(sampling.stop))
            runs, params = [], []
            for prompt, many, seed in zip(prompts, n, seeds, strict=True):
                runs += [self.runs(prompt)] * many
                own_seeds = [seed_of(seed, j) for j in range(many)]
                params += [dataclasses.replace(sampling, stop_token_ids=end_ids, seed=own) for own in own_seeds]
            rows = self._cache.generate(weights, runs, params, max_requests=self.width, deadline=deadline)
            completions = iter([self._completion(*pair) for pair in zip(runs, rows, strict=True)])
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(row.prompt_length for row in rows)
        self.usage.completion_tokens += sum(len(row.tokens) for row in rows)
        return [[next(completions) for _ in range(many)] for many in n]

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """As the protocol says. Raises `BackendError` where the deadline comes before all were scored."""
        with self._measure() as weights:
            pairs = [
                (self.runs(prompt), self._tokenize_after(split_prompt(prompt), text))
                for prompt, texts in zip(prompts, continuations, strict=True)
                for text in texts
                if text
            ]
            scores: list[float] = []
            for part in split_requests(pairs, lambda pair: pair[0], self._cache.max_prompts, self.width):
                if deadline is not None and time.monotonic() >= deadline:
                    done = f"{len(scores)} of {len(pairs)} continuations were scored before the deadline"
                    raise BackendError(f"{done}: allow more time or score fewer")
                scores += self._cache.score(weights, [runs for runs, _ in part], [tokens for _, tokens in part])
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(sum(map(len, runs)) + len(tokens) for runs, tokens in pairs)
        left = iter(scores)
        return [[next(left) if text else 0.0 for text in texts] for texts in continuations]

    def features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """The hidden states of the last token of each prompt, `[n, D]` float32: what a learned head of values reads."""
        parts = [np.zeros((0, self.model.config.d_model), np.float32)]
        with self._measure() as weights:
            runs, most = [self.runs(prompt) for prompt in prompts], self._cache.max_prompts
            for part in split_requests(runs, lambda prompt: prompt, most, most):
                parts.append(self._cache.last_hidden_states(weights, part))
        return np.concatenate(parts)

    def runs(self, prompt: Prompt) -> Runs:
        """Returns a prompt's tokens: a run for each piece, and for every 256 tokens of a longer one."""
        own = split_prompt(prompt)
        if not own:
            raise InputError("a prompt is empty; give it at least one character")
        return self._runs(own)

    def _tokenize(self, own: tuple[str, ...]) -> Runs:
        if not own:
            return ()
        tokens, most = self._tokenize_after(own[:-1], own[-1]), PREFILL_CHUNKS[-1]
        return self._runs(own[:-1]) + tuple(tokens[at : at + most] for at in range(0, len(tokens), most))

    def _tokenize_after(self, own: tuple[str, ...], text: str) -> tuple[int, ...]:
        """Returns the tokens of a text after a prompt's pieces."""
        before = [token for run in self._runs(own) for token in run]
        whole = self.model.tokenizer.encode("".join(own) + text)
        if whole[: len(before)] == before and len(whole) > len(before):
            return tuple(whole[len(before) :])
        return tuple(self.model.tokenizer.encode(text, add_special_tokens=False))

    def _completion(self, runs: Runs, row: GeneratedRow) -> Completion:
        tokenizer = self.model.tokenizer
        text = Continuation(tokenizer, [token for run in runs for token in run], row.params.stop)
        return Completion(
            text=text.push(row.tokens, last=True),
            tokens=len(row.tokens),
            logprob=sum(row.logprobs),
            finish_reason=row.reason or "length",
            likeliest=tuple({tokenizer.decode([i]): x for i, x in reversed(top.items())} for top in row.top_logprobs),
        )

    def _find_stop_token_ids(self, stop: tuple[str, ...]) -> tuple[int, ...]:
        """Returns the tokens whose own text holds a stop text: rows end with them on the device."""
        tokenizer = self.model.tokenizer
        texts = enumerate(tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
        return tuple(i for i, text in texts if any(part in text for part in stop))

    def _weights(self) -> Any:
        """Returns the model's weights. What others computed, before an adapter was set for instance, is forgotten."""
        weights = self.model.weights
        if weights is not self._last_weights:
            self._last_weights, self._identity = weights, None
            self._cache.clear()
        return weights

    @contextlib.contextmanager
    def _measure(self) -> Iterator[Any]:
        """Gives the weights for a call, and adds its time, device calls and tokens read to `usage`."""
        start = time.perf_counter()
        yield self._weights()
        counts = self._cache.counts
        self.usage.device_calls, self.usage.prefill_tokens = counts.device_calls, counts.prefill_tokens
        self.usage.seconds += time.perf_counter() - start

    @functools.cached_property
    def _cache(self) -> PrefixCache:
        return PrefixCache(self.model.generator, self._sizes)


def as_model(model: Any) -> Model:
    """Returns what has the protocol as it is, a `VishwamAI` as a `Local`. Raises `InputError` for anything else."""
    if hasattr(model, "identity") and hasattr(model, "usage"):
        return model
    if all(hasattr(model, name) for name in ("generator", "tokenizer", "weights", "config")):
        return Local(model)
    raise InputError(
        f"a {type(model).__name__} is no model: give a VishwamAI, or what has reasoning.model.Model's methods"
    )
