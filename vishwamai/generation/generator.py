"""`Generator`: prompts in, new tokens out. It rounds shapes up, runs the loop in turns and watches for stop strings.

Rows are lists of token ids of any lengths. Text is known only through the function `text`, and made only where stop
strings are asked for. It knows no file and no tokenizer, and holds no weights.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation import decode
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.decode import LENGTH, RUNNING, STOP, State
from vishwamai.generation.programs import Clock, Programs, read_length
from vishwamai.generation.prompt_cache import CachedRow, PromptCache
from vishwamai.generation.prompts import id_rows
from vishwamai.generation.requests import DEFAULTS, Job, checked_params, checked_rows, job_of, on_device, padded
from vishwamai.generation.results import Chunk, Generation, NewText, Text, View, generation
from vishwamai.generation.sampling import SamplingParams
from vishwamai.generation.score import logits_of, score_rows
from vishwamai.generation.search import search_rows
from vishwamai.models.cache import enlarge
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import SINGLE, Sharding

Prompts = Sequence[Sequence[int]]
Params = SamplingParams | Sequence[SamplingParams]
TURN, WATCHFUL_TURN = 64, 16  # steps between two looks at the rows: without and with stop strings
REASONS = {RUNNING: None, STOP: "stop", LENGTH: "length"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """How one model generates: its end tokens, layout and dtypes. It keeps the programs that it compiles.

    `compute` and `cache` are the dtypes of activations and of keys and values. `text` makes what reads a row's new text
    and is needed for stop strings.
    """

    cfg: ModelConfig
    eos_ids: tuple[int, ...] = ()
    pad_id: int = 0
    sharding: Sharding = SINGLE
    compute: str = "float32"
    cache: str = "float32"
    text: NewText | None = None
    programs: Programs = dataclasses.field(default_factory=Programs, repr=False)

    def generate(
        self, weights, prompts: Prompts, params: Params = DEFAULTS, *, cache: PromptCache | None = None
    ) -> Generation:
        """Continues every prompt; `params` are for all rows, or one for each. Raises `InputError` for bad input.

        A `cache` is for one prompt: it is read where it holds its beginning, and holds the whole row afterwards.
        """
        job, clock = self._job(prompts, params), Clock(self.programs)
        turn = WATCHFUL_TURN if any(row.params.stop for row in job.rows) else TURN
        with self.programs.progress("generating"):
            for _ in self._turns(weights, job, turn, clock, _checked(cache, job)):
                pass
        made, cached = sum(len(row.tokens) for row in job.rows), 0 if cache is None else cache.cached_tokens
        return generation(job.rows, clock.stats(sum(row.start for row in job.rows), made, cached))

    def stream(
        self,
        weights,
        prompts: Prompts,
        params: Params = DEFAULTS,
        *,
        every: int = 1,
        cache: PromptCache | None = None,
    ) -> Iterator[Chunk]:
        """`generate`, giving each row's new tokens as they come, after the prefill and then every `every` steps.

        A stream that is closed before its end leaves what it made in the cache.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}; it must be a whole number of steps, 1 or more")
        job = self._job(prompts, params)
        turns = self._turns(weights, job, every, Clock(self.programs), _checked(cache, job))
        return (chunk for chunks in turns for chunk in chunks)

    def search(self, weights, prompts: Prompts, beams: BeamParams, params: Params = DEFAULTS) -> Generation:
        """Beam search or beam sampling; `num_return` texts of each prompt in turn, the best first, with `scores`.

        A row's `max_tokens`, `seed`, `repetition_penalty` and end tokens count (the last must be the same for all
        rows), and with `beams.sample` its temperature and filters. Stop strings and logprobs are refused.
        """
        job, clock = self._job(prompts, params), Clock(self.programs)
        with self.programs.progress("searching"):
            return search_rows(self.programs, weights, job, beams, clock, **self._fixed())

    def score(self, weights, texts: Prompts, *, batch: int = 8) -> list[np.ndarray]:
        """The logprob of each token given those before it, float32: row i has `len(texts[i]) - 1` of them."""
        rows = checked_rows(texts, self.cfg, "text")
        fixed = {"cfg": self.cfg, "dtype": self.compute, "sharding": self.sharding}
        with self.programs.progress("scoring"):
            return score_rows(self.programs, weights, rows, batch, **fixed)

    def logits(self, weights, input_ids: Any, mask: Any = None) -> jax.Array:
        """Logits `[B, T, V]`, float32, of rows of one length; `mask` is 0 where a row is padded."""
        rows = id_rows(input_ids)
        masks = [np.ones(len(row), np.int32) for row in rows] if mask is None else id_rows(mask, "attention_mask")
        if len({len(row) for row in rows}) > 1 or list(map(len, masks)) != list(map(len, rows)):
            raise InputError("logits [B, T, V] need rows of one length, and a mask of the same shape: pad the rows")
        checked_rows(rows, self.cfg)
        fixed = {"cfg": self.cfg, "dtype": self.compute, "sharding": self.sharding}
        with self.programs.progress("reading the prompt"):
            return logits_of(self.programs, weights, np.stack(rows), np.stack(masks) != 0, **fixed)

    def _job(self, prompts: Prompts, params: Params) -> Job:
        prompts = checked_rows(prompts, self.cfg)
        params = checked_params(params, len(prompts))
        job = job_of(prompts, params, self.cfg, self.eos_ids, self.sharding)
        for row, prompt in zip(job.rows, prompts, strict=True):
            if row.params.stop:
                row.text = self._text(prompt, row.params.stop)
        return job

    def _text(self, prompt: Sequence[int], stop: Sequence[str]) -> Text:
        if self.text is None:
            raise InputError("stop strings need a tokenizer, and this generator has none; use stop_token_ids")
        return self.text(prompt, stop)

    def _fixed(self) -> dict:
        return {"cfg": self.cfg, "dtypes": (self.compute, self.cache), "sharding": self.sharding}

    def _turns(
        self, weights, job: Job, turn: int, clock: Clock, cache: PromptCache | None = None
    ) -> Iterator[list[Chunk]]:
        """The rows of the job after the prefill, and after each turn of the loop, until all have ended."""
        fixed = self._fixed()
        step = (job.rules, jax.device_put(np.int32(turn)))
        with self.programs.progress("reading the prompt"):
            state = self._prefill(weights, job, cache)
            view = look(state)
        clock.lap("prefill")
        chunks = self._grow(job, view)
        if any(row.reason is None for row in job.rows):  # before the first token, which the next should follow soon
            self.programs.prepare(decode.decode, weights, state, *step, donate=(1,), **fixed)
        while True:
            try:
                yield chunks
            finally:  # here an abandoned stream ends; the state is donated only after this
                if cache is not None:
                    cache.put(weights, fixed, _cached_row(state, view))
            if all(row.reason is not None for row in job.rows):
                return
            if cache is not None:
                cache.clear()
            state = dataclasses.replace(state, reason=ended(state, job))
            clock.lap(None)
            state = self.programs.run(decode.decode, weights, state, *step, donate=(1,), **fixed)
            view = look(state)
            clock.lap("decode")
            chunks = self._grow(job, view)

    def _prefill(self, weights, job: Job, cache: PromptCache | None) -> State:
        """The state after the prompts, of which a cached prefix is not read again."""
        fixed, shape = self._fixed(), {"pad_id": self.pad_id, "top": job.top}
        row = None if cache is None else cache.take(weights, fixed, job.prompts[0])
        if row is None:
            args = job.tokens, job.lengths, job.rules
            return self.programs.run(decode.prefill, weights, *args, size=job.size, **shape, **fixed)
        kept, size, kv = len(row.tokens), max(row.size, job.size), row.cache
        if size > row.size:
            kv = self.programs.run(enlarge, kv, cfg=self.cfg, max_length=size, sharding=self.sharding)
        host = np.asarray([kept], np.int32), padded(job.prompts, 1, size, self.pad_id)
        args = kv, *on_device(host, self.sharding), job.lengths, job.rules
        shape["span"] = read_length(len(job.prompts[0]) - kept)
        return self.programs.run(decode.extend, weights, *args, donate=(1,), **shape, **fixed)

    def _grow(self, job: Job, view: View) -> list[Chunk]:
        grown = [row.grow(view, REASONS[int(view.reason[row.index])]) for row in job.rows]
        return [chunk for chunk in grown if chunk is not None]


def _checked(cache: PromptCache | None, job: Job) -> PromptCache | None:
    """The same cache. Raises `InputError` where it cannot be of this job."""
    if cache is not None and len(job.rows) != 1:
        raise InputError(f"a PromptCache is of one prompt, and there are {len(job.rows)}; leave it out, or give one")
    return cache


def _cached_row(state: State, view: View) -> CachedRow:
    """What the cache of a state with one row holds: all but the last token."""
    return CachedRow(state.cache, state.tokens.shape[1], view.tokens[0, : int(view.length[0]) - 1])


def look(state: State) -> View:
    """The state without its cache, fetched to the host."""
    names = [field.name for field in dataclasses.fields(View)]
    return View(**jax.device_get({name: getattr(state, name) for name in names}))


def ended(state: State, job: Job) -> jax.Array:
    """The state's reasons with the rows that the host has ended marked as stopped."""
    stopped = [row.index for row in job.rows if row.reason == "stop"]
    reason = np.array(state.reason)
    if np.all(reason[stopped] != RUNNING):
        return state.reason
    reason[stopped] = STOP
    return jax.device_put(reason, state.reason.sharding)
