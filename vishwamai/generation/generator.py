"""`Generator`: prompts in, new tokens out. It rounds shapes up, runs the loop in turns and watches for stop strings.

Rows are lists of token ids of any lengths. Text is known only through the function `text`, and made only where stop
strings are asked for. It knows no file and no tokenizer, and holds no weights.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation import decode
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.decode import LENGTH, RUNNING, STOP, State
from vishwamai.generation.programs import Clock, Programs
from vishwamai.generation.requests import DEFAULTS, Job, checked_params, checked_rows, job_of
from vishwamai.generation.results import Chunk, Generation, NewText, Text, View, generation
from vishwamai.generation.sampling import SamplingParams
from vishwamai.generation.score import score_rows
from vishwamai.generation.search import search_rows
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

    def generate(self, weights, prompts: Prompts, params: Params = DEFAULTS) -> Generation:
        """Continues every prompt; `params` are for all rows, or one for each. Raises `InputError` for bad input."""
        job, clock = self._job(prompts, params), Clock(self.programs)
        turn = WATCHFUL_TURN if any(row.params.stop for row in job.rows) else TURN
        with self.programs.progress("generating"):
            for _ in self._turns(weights, job, turn, clock):
                pass
        made = sum(len(row.tokens) for row in job.rows)
        return generation(job.rows, clock.stats(sum(row.start for row in job.rows), made))

    def stream(self, weights, prompts: Prompts, params: Params = DEFAULTS, *, every: int = 1) -> Iterator[Chunk]:
        """`generate`, giving each row's new tokens as they come, after the prefill and then every `every` steps."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every is {every!r}; it must be a whole number of steps, 1 or more")
        job = self._job(prompts, params)
        return (c for chunks in self._turns(weights, job, every, Clock(self.programs)) for c in chunks)

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

    def _turns(self, weights, job: Job, turn: int, clock: Clock) -> Iterator[list[Chunk]]:
        """The rows of the job after the prefill, and after each turn of the loop, until all have ended."""
        fixed = self._fixed()
        shape = {"size": job.size, "pad_id": self.pad_id, "top": job.top}
        step = (job.rules, jnp.int32(turn))
        with self.programs.progress("reading the prompt"):
            state = self.programs.run(decode.prefill, weights, job.tokens, job.lengths, job.rules, **shape, **fixed)
            view = look(state)
        clock.lap("prefill")
        chunks = self._grow(job, view)
        if any(row.reason is None for row in job.rows):  # before the first token, which the next should follow soon
            self.programs.prepare(decode.decode, weights, state, *step, donate=(1,), **fixed)
        while True:
            yield chunks
            if all(row.reason is not None for row in job.rows):
                return
            state = dataclasses.replace(state, reason=ended(state, job))
            clock.lap(None)
            state = self.programs.run(decode.decode, weights, state, *step, donate=(1,), **fixed)
            view = look(state)
            clock.lap("decode")
            chunks = self._grow(job, view)

    def _grow(self, job: Job, view: View) -> list[Chunk]:
        grown = [row.grow(view, REASONS[int(view.reason[row.index])]) for row in job.rows]
        return [chunk for chunk in grown if chunk is not None]


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
