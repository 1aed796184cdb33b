"""`PrefixCache`: automatic prefix caching. Prompts are prefilled once where they begin alike, and many rows go on.

A prompt is given in runs of tokens, and prefixes are shared in whole runs. Each prefix has a slot of the pool to
itself, with room for the whole context; the slot that was not used for longest is given up first.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation import prefix_pool
from vishwamai.generation.decode import STOP
from vishwamai.generation.generator import Generator
from vishwamai.generation.prefix_pool import PoolSizes, PrefillBatch
from vishwamai.generation.prefixes import PlannedPrefill, Prefixes, Runs, group_by_length
from vishwamai.generation.programs import PREFILL_CHUNKS, bucket, prefill_chunk
from vishwamai.generation.requests import LEAST_NEW_TOKENS, n_top_logprobs
from vishwamai.generation.results import GeneratedRow, fetch_state, make_rows
from vishwamai.generation.sampling import SamplingParams, batch_params

CHUNK_TOKENS = (
    128  # new tokens after which rows that go on are prefilled again, so that rows that have ended cost nothing
)


@dataclasses.dataclass
class PrefixCounts:
    """What was computed so far."""

    device_calls: int = 0
    prefill_tokens: int = 0


class PrefixCache:
    """A pool of prefixes of one model, which a `Generator` prefills and continues.

    A row's numbers depend on its prompt, the runs in which it is given, and its parameters alone, bit for bit.
    """

    def __init__(self, generator: Generator, sizes: PoolSizes):
        self.cfg, self.generator, self.sizes, self.counts = generator.cfg, generator, sizes, PrefixCounts()
        if sizes.context > self.cfg.max_length:
            raise InputError(f"a context of {sizes.context} is longer than the model's {self.cfg.max_length}")
        self.programs, self._fixed = generator.programs, generator.static_arguments()
        self.clear()

    @property
    def max_prompts(self) -> int:
        """The different prompts that one call may have."""
        return self.sizes.slots // 2

    def clear(self) -> None:
        """Empties the pool; to be called when the weights change."""
        self._prefixes, self._pool = Prefixes(self.sizes.slots), None

    def prefill(self, weights, prompts: Sequence[Runs]) -> list[int]:
        """Returns the pool's slot of each prompt, after what is not there yet was prefilled."""
        for prompt in prompts:
            self.check(prompt)
        if len(set(prompts)) > self.max_prompts:
            raise InputError(f"a pool of {self.sizes.slots} slots takes at most {self.max_prompts} prompts at once")
        for prefills in self._prefixes.assign_slots(prompts):
            self._prefill(weights, prefills, with_logprobs=False)
        return [self._prefixes.slot(prompt) for prompt in prompts]

    def score(self, weights, prompts: Sequence[Runs], continuations: Sequence[tuple[int, ...]]) -> list[float]:
        """Returns the log-probability of continuation i after prompt i."""
        for prompt, new in zip(prompts, continuations, strict=True):
            if not 0 < len(new) <= PREFILL_CHUNKS[-1]:
                raise InputError(f"a continuation has {len(new)} tokens; it must be from 1 to {PREFILL_CHUNKS[-1]}")
            self.check((*prompt, new))
        slots, nowhere = self.prefill(weights, prompts), self.sizes.slots
        prefills = [
            PlannedPrefill(slot, nowhere, sum(map(len, prompt)), new)
            for slot, prompt, new in zip(slots, prompts, continuations, strict=True)
        ]
        return self._prefill(weights, prefills, with_logprobs=True)

    def last_hidden_states(self, weights, prompts: Sequence[Runs]) -> np.ndarray:
        """Returns the hidden states of each prompt's last token, `[n, D]` float32."""
        slots = self.prefill(weights, prompts)
        return np.asarray(self._pool.last[jnp.asarray(slots)], np.float32)

    def generate(
        self,
        weights,
        prompts: Sequence[Runs],
        params: Sequence[SamplingParams],
        *,
        max_requests: int | None = None,
        deadline: float | None = None,
    ) -> list[GeneratedRow]:
        """Continues each prompt, of which many may be equal, `max_requests` in one call of the device.

        The context bounds a prompt and its continuation. A deadline, of `time.monotonic`, ends rows where they are with
        the reason "length", but no call of the device. Rows that go on after `CHUNK_TOKENS` tokens are prompts of their
        own in the next call.
        """
        for prompt in prompts:
            self.check(prompt)
        rows = make_rows(
            [[token for run in prompt for token in run] for prompt in prompts], params, self.generator.make_stop_checker
        )
        for row in rows:
            row.reason = None if self._n_left(row) else "length"
        max_requests = min(max_requests or self.sizes.requests, self.sizes.requests)
        if deadline is not None:
            max_requests = min(max_requests, self.sizes.batch)
        while running := [row for row in rows if row.reason is None]:
            pairs = [(prompts[row.index] + _split_tokens(row.tokens), row) for row in running]
            for part in split_requests(pairs, lambda pair: pair[0], self.max_prompts, max_requests):
                if deadline is not None and time.monotonic() >= deadline:
                    return [dataclasses.replace(row, reason=row.reason or "length") for row in rows]
                self._generate_chunk(weights, part)
        return rows

    def check(self, prompt: Runs) -> None:
        """Raises `InputError` for a prompt that the pool cannot hold."""
        length = sum(map(len, prompt))
        if not prompt or not all(prompt):
            raise InputError("a prompt is empty; give at least one token")
        if max(map(len, prompt)) > PREFILL_CHUNKS[-1]:
            raise InputError(f"a run has {max(map(len, prompt))} tokens; it must be from 1 to {PREFILL_CHUNKS[-1]}")
        if length > self.sizes.context:
            raise InputError(
                f"a prompt has {length} tokens and the context of this pool holds {self.sizes.context}; make it larger"
            )

    def _n_left(self, row: GeneratedRow) -> int:
        """Returns the tokens that a row may still get."""
        most = self.sizes.context - row.prompt_length
        return min(most, row.params.max_tokens or most) - len(row.tokens)

    def _generate_chunk(self, weights, part: Sequence[tuple[Runs, GeneratedRow]]) -> None:
        """Prefills the prompts of running rows and appends what follows, `CHUNK_TOKENS` tokens at most."""
        slots, rows = self.prefill(weights, [prompt for prompt, _ in part]), [row for _, row in part]
        params, n_new = [row.params for row in rows], [min(CHUNK_TOKENS, self._n_left(row)) for row in rows]
        limits = [row.prompt_length + len(row.tokens) + n for row, n in zip(rows, n_new, strict=True)]
        size = _round_up(self.sizes.requests, self.sizes.batch)
        src = np.zeros(size, np.int32)
        src[: len(rows)] = slots
        n_batches = -(-len(rows) // self.sizes.batch)
        arrays = src, batch_params(params, limits, self.generator.eos_ids, size), np.int32(n_batches)
        shape = {
            "batch": self.sizes.batch,
            "max_tokens": bucket(max(n_new), LEAST_NEW_TOKENS, self.sizes.context),
            "n_top": n_top_logprobs(params, self.cfg),
        }
        args = jax.tree.map(jax.device_put, arrays)
        new = fetch_state(self.programs.run(prefix_pool.fork_rows, weights, self._pool, *args, **shape, **self._fixed))
        self.counts.device_calls += 1
        for i, row in enumerate(rows):
            n = int(new.length[i])
            reason = "stop" if new.reason[i] == STOP else "length" if n >= self._n_left(row) else None
            row.append(new, i, slice(0, n), reason)

    def _prefill(self, weights, prefills: Sequence[PlannedPrefill], *, with_logprobs: bool) -> list[float]:
        """Prefills the pool; returns the log-probability of each one's tokens, `with_logprobs`."""
        try:
            return self._run_prefills(weights, prefills, with_logprobs)
        except BaseException:  # slots are assigned before they are filled, and the pool is donated
            self.clear()
            raise

    def _run_prefills(self, weights, prefills: Sequence[PlannedPrefill], with_logprobs: bool) -> list[float]:
        if self._pool is None:
            sizes = {"slots": self.sizes.slots, "size": self.sizes.context}
            self._pool = self.programs.run(prefix_pool.init_pool, **sizes, **self._fixed)
        logprobs: dict[int, float] = {}
        for T, group in group_by_length(prefills, prefill_chunk).items():
            batch = max(self.sizes.batch_tokens // T, 1)
            for begin in range(0, len(group), self.sizes.requests):
                part = group[begin : begin + self.sizes.requests]
                args = self._prefill_arrays([one for _, one in part], T), np.int32(-(-len(part) // batch))
                shape = {"batch": batch, "with_logprobs": with_logprobs, **self._fixed}
                args = jax.tree.map(jax.device_put, args)
                run = self.programs.run(prefix_pool.prefill_prefixes, weights, self._pool, *args, donate=(1,), **shape)
                self._pool, found = run
                self.counts.device_calls += 1
                self.counts.prefill_tokens += sum(len(one.tokens) for _, one in part)
                if with_logprobs:
                    logprobs |= {i: float(x) for (i, _), x in zip(part, np.asarray(found), strict=False)}
        return [logprobs[i] for i in sorted(logprobs)]

    def _prefill_arrays(self, prefills: Sequence[PlannedPrefill], T: int) -> PrefillBatch:
        M = _round_up(self.sizes.requests, max(self.sizes.batch_tokens // T, 1))
        columns = np.zeros((4, M), np.int32)
        columns[1] = self.sizes.slots
        tokens = np.zeros((M, T), np.int32)
        for i, one in enumerate(prefills):
            columns[:, i] = one.src, one.dst, one.n_cached, len(one.tokens)
            tokens[i, : len(one.tokens)] = one.tokens
        src, dst, n_cached, n_new = columns
        return PrefillBatch(src=src, dst=dst, n_cached=n_cached, tokens=tokens, n_new=n_new)


def _round_up(n: int, batch: int) -> int:
    return -(-n // batch) * batch


def _split_tokens(tokens: Sequence[int]) -> Runs:
    """Returns new tokens as runs, one for each chunk in which they were made."""
    return tuple(tuple(tokens[at : at + CHUNK_TOKENS]) for at in range(0, len(tokens), CHUNK_TOKENS))


def split_requests(
    requests: Sequence[Any], prompt: Callable[[Any], Runs], max_prompts: int, max_requests: int
) -> Iterator[list[Any]]:
    """Gives the requests in order, in parts of so many with so many different prompts at most."""
    part, seen = [], set()
    for request in requests:
        if len(part) >= max_requests or (prompt(request) not in seen and len(seen) >= max_prompts):
            yield part
            part, seen = [], set()
        part.append(request)
        seen.add(prompt(request))
    if part:
        yield part
