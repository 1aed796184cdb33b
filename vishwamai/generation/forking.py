"""`Forks`: prompts in runs of tokens, read once where they are alike, and continued or scored many at a time.

It holds the pool and no weights, and knows no text.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation import fork
from vishwamai.generation.decode import STOP, BatchParams
from vishwamai.generation.fork import ForkedTokens, PoolSizes, PrefixReads
from vishwamai.generation.prefixes import Prefixes, PrefixRead, Runs, group_by_length
from vishwamai.generation.programs import READ_LENGTHS, Programs, bucket, read_length
from vishwamai.generation.requests import FEW_LOGPROBS, LEAST_ENDS
from vishwamai.generation.sampling import MAX_LOGPROBS, SamplingParams, controls
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import SINGLE, Sharding


@dataclasses.dataclass(frozen=True)
class ForkedRow:
    """One continuation: its tokens, an end token included, their logprobs, and the likeliest ones at each step."""

    tokens: list[int]
    logprobs: list[float]
    top: list[dict[int, float]]
    stopped: bool


@dataclasses.dataclass
class ForkCounts:
    """What was computed so far."""

    device_calls: int = 0
    prefill_tokens: int = 0


class Forks:
    """A pool of prefixes of one model, and the programs that read and continue them."""

    def __init__(
        self,
        cfg: ModelConfig,
        sizes: PoolSizes,
        *,
        compute: str = "float32",
        cache: str = "float32",
        sharding: Sharding = SINGLE,
        programs: Programs | None = None,
    ):
        if sizes.context > cfg.max_length:
            raise InputError(f"a context of {sizes.context} is longer than the model's {cfg.max_length}")
        self.cfg, self.sizes, self.counts = cfg, sizes, ForkCounts()
        self.programs = Programs() if programs is None else programs
        self._fixed = {"cfg": cfg, "dtypes": (compute, cache), "sharding": sharding}
        self.forget()

    @property
    def most(self) -> int:
        """The prompts that one call may have."""
        return self.sizes.rows // 2

    def forget(self) -> None:
        """Empties the pool; to be called when the weights change."""
        self._prefixes, self._pool = Prefixes(self.sizes.rows), None

    def read(self, weights, prompts: Sequence[Runs]) -> list[int]:
        """The pool's row of each prompt, after what is not there yet was read."""
        for prompt in prompts:
            self.check(prompt)
        if len(set(prompts)) > self.most:
            raise InputError(f"a pool of {self.sizes.rows} rows reads at most {self.most} prompts at once")
        for jobs in self._prefixes.rounds(prompts):
            self._read(weights, jobs, scored=False)
        return [self._prefixes.row(prompt) for prompt in prompts]

    def score(self, weights, prompts: Sequence[Runs], continuations: Sequence[tuple[int, ...]]) -> list[float]:
        """The log-probability of continuation i after prompt i."""
        for prompt, new in zip(prompts, continuations, strict=True):
            if not 0 < len(new) <= READ_LENGTHS[-1]:
                raise InputError(f"a continuation has {len(new)} tokens; it must be from 1 to {READ_LENGTHS[-1]}")
            self.check((*prompt, new))
        rows, nowhere = self.read(weights, prompts), self.sizes.rows
        jobs = [
            PrefixRead(row, nowhere, sum(map(len, prompt)), new)
            for row, prompt, new in zip(rows, prompts, continuations, strict=True)
        ]
        return self._read(weights, jobs, scored=True)

    def draw(
        self, weights, prompts: Sequence[Runs], params: Sequence[SamplingParams], ends: Sequence[int]
    ) -> list[ForkedRow]:
        """One continuation of each prompt, of which many may be equal; tokens of `ends` end a row."""
        unique = list(dict.fromkeys(prompts))
        of = dict(zip(unique, self.read(weights, unique), strict=True))
        starts = [sum(map(len, prompt)) for prompt in prompts]
        room = [self.sizes.context if p.max_tokens is None else p.max_tokens for p in params]
        limit = [min(start + n, self.sizes.context) for start, n in zip(starts, room, strict=True)]
        return self._draw(weights, [of[prompt] for prompt in prompts], starts, params, limit, ends)

    def last(self, rows: Sequence[int]) -> np.ndarray:
        """The residuals of the last token of each row, `[n, D]` float32."""
        return np.asarray(self._pool.last[jnp.asarray(rows)], np.float32)

    def check(self, prompt: Runs) -> None:
        """Raises `InputError` for a prompt that the pool cannot hold."""
        length = sum(map(len, prompt))
        if not prompt or not all(prompt):
            raise InputError("a prompt is empty; give at least one token")
        if length > self.sizes.context:
            raise InputError(
                f"a prompt has {length} tokens and the context of this pool holds {self.sizes.context}; make it larger"
            )

    def _read(self, weights, jobs: Sequence[PrefixRead], *, scored: bool) -> list[float]:
        """Carries jobs out; the log-probability of each where `scored`."""
        try:
            return self._carry_out(weights, jobs, scored)
        except BaseException:  # rows are noted before they are read, and the pool is donated
            self.forget()
            raise

    def _carry_out(self, weights, jobs: Sequence[PrefixRead], scored: bool) -> list[float]:
        if self._pool is None:
            self._pool = self.programs.run(fork.init_pool, rows=self.sizes.rows, size=self.sizes.context, **self._fixed)
        sums: dict[int, float] = {}
        place = {id(job): i for i, job in enumerate(jobs)}
        for T, group in group_by_length(jobs, read_length).items():
            tile = max(self.sizes.read // T, 1)
            for begin in range(0, len(group), self.sizes.jobs):
                part = group[begin : begin + self.sizes.jobs]
                args = self._reads(part, T), jax.device_put(np.int32(-(-len(part) // tile)))
                call = {"tile": tile, "scored": scored, **self._fixed}
                self._pool, found = self.programs.run(fork.read, weights, self._pool, *args, donate=(1,), **call)
                self.counts.device_calls += 1
                self.counts.prefill_tokens += sum(len(job.tokens) for job in part)
                if scored:
                    sums |= {place[id(job)]: float(x) for job, x in zip(part, np.asarray(found), strict=False)}
        return [sums[i] for i in range(len(jobs))] if scored else []

    def _reads(self, jobs: Sequence[PrefixRead], T: int) -> PrefixReads:
        M = self._padded(self.sizes.jobs, max(self.sizes.read // T, 1))
        columns = np.zeros((4, M), np.int32)
        columns[1] = self.sizes.rows
        tokens = np.zeros((M, T), np.int32)
        for i, job in enumerate(jobs):
            columns[:, i] = job.src, job.dst, job.kept, len(job.tokens)
            tokens[i, : len(job.tokens)] = job.tokens
        src, dst, kept, lengths = map(jax.device_put, columns)
        return PrefixReads(src=src, dst=dst, kept=kept, tokens=jax.device_put(tokens), lengths=lengths)

    def _draw(self, weights, rows, starts, params, limit, ends) -> list[ForkedRow]:
        out: list[ForkedRow] = []
        room = bucket(max(n - start for n, start in zip(limit, starts, strict=True)), 16, self.sizes.context)
        asked = max(p.logprobs or 0 for p in params)
        top = min(0 if not asked else FEW_LOGPROBS if asked <= FEW_LOGPROBS else MAX_LOGPROBS, self.cfg.vocab_size)
        for begin in range(0, len(rows), self.sizes.jobs):
            part = slice(begin, begin + self.sizes.jobs)
            n = len(rows[part])
            args = (
                self._src(rows[part]),
                self._rules(params[part], limit[part], ends),
                jax.device_put(np.int32(-(-n // self.sizes.tile))),
            )
            call = {"tile": self.sizes.tile, "room": room, "top": top, **self._fixed}
            drawn = jax.device_get(self.programs.run(fork.draw, weights, self._pool, *args, **call))
            self.counts.device_calls += 1
            out += [_forked_row(drawn, i, asked) for i in range(n)]
        return out

    def _src(self, rows: Sequence[int]) -> jax.Array:
        out = np.zeros(self._padded(self.sizes.jobs, self.sizes.tile), np.int32)
        out[: len(rows)] = rows
        return jax.device_put(out)

    def _rules(self, params: Sequence[SamplingParams], limit: Sequence[int], ends: Sequence[int]) -> BatchParams:
        M = self._padded(self.sizes.jobs, self.sizes.tile)
        spare = M - len(params)
        end_ids = np.full((M, bucket(len(ends), LEAST_ENDS)), -1, np.int32)
        end_ids[:, : len(ends)] = ends
        drawn = controls([*params, *[SamplingParams(temperature=0.0, seed=0)] * spare])
        batch_params = BatchParams(controls=drawn, end_ids=end_ids, limit=np.asarray([*limit, *[0] * spare], np.int32))
        return jax.tree.map(jax.device_put, batch_params)

    @staticmethod
    def _padded(n: int, tile: int) -> int:
        return -(-n // tile) * tile


def _forked_row(drawn: ForkedTokens, i: int, asked: int) -> ForkedRow:
    n = int(drawn.length[i])
    pairs = zip(drawn.top_ids[i, :n, :asked].tolist(), drawn.top_logprobs[i, :n, :asked].tolist(), strict=True)
    top = [dict(zip(ids, values, strict=True)) for ids, values in pairs] if asked else []
    return ForkedRow(drawn.tokens[i, :n].tolist(), drawn.logprobs[i, :n].tolist(), top, int(drawn.reason[i]) == STOP)
