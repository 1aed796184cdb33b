"""A model of this library as reasoning sees it: prompts in pieces, each piece read once, continued many at a time.

It draws text with `generation.forking`; what it is given (a `VishwamAI`) it knows by what it needs of it. A piece's
tokens are those of the whole text where that text's tokens begin with its prompt's, else its own.
"""

import bisect
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from vishwamai.checks import check_whole
from vishwamai.errors import BackendError, InputError
from vishwamai.generation.fork import PoolSizes, fingerprint_model
from vishwamai.generation.forking import ForkedRow, Forks
from vishwamai.generation.generator import CHUNK_STEPS as GENERATOR_CHUNK_STEPS
from vishwamai.generation.generator import Generator
from vishwamai.generation.prefixes import Runs
from vishwamai.generation.programs import READ_LENGTHS
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import Completion, Model, Prompt, Usage, pieces, seed_of
from vishwamai.text.continuation import Continuation
from vishwamai.text.tokenizer import VishwamAITokenizer

JOBS = 1024  # of one device call; one number for all, since programs of other shapes differ in the last bits
PREFIX_BYTES = 512 << 20
MOST_RUNS = 1 << 16  # prompts whose tokens are remembered
CHUNK_TOKENS = 128  # new tokens after which rows that go on are read again, so that rows that have ended cost nothing


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


@dataclasses.dataclass
class _RunningRow:
    """A continuation while it is made."""

    prompt: Runs
    params: SamplingParams
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top: list[dict[int, float]] = dataclasses.field(default_factory=list)
    text: str = ""
    stopped: bool = False  # by a stop text
    ended: bool = False


class Local:
    """A local model. The numbers of a row depend on its prompt and seed alone, bit for bit, at any `width` and `rows`.

    `context` bounds a prompt and its continuation together (by default the model's own, at most 512), `rows` the
    prefixes that are kept (by default as many as 512 MiB hold, 16 to 1024), `width` the continuations of one
    device call, `tile` those that are decoded at once; `share=False` reads every row's prompt anew, as a model without
    forking would, and its last bits do depend on the other rows. Raises `InputError` for arguments out of range.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        context: int | None = None,
        rows: int | None = None,
        width: int = JOBS,
        tile: int = 32,
        share: bool = True,
    ):
        context = int(min(model.config.max_length, 512)) if context is None else context
        check_whole("context", context, 2, model.config.max_length)
        rows = _rows(model, context) if rows is None else rows
        check_whole("rows", rows, 2, 1 << 20)
        check_whole("width", width, 1, JOBS)
        check_whole("tile", tile, 1, JOBS)
        self.model, self.share, self.usage, self.width = model, share, Usage(), width
        self._sizes = PoolSizes(rows=rows, context=context, jobs=JOBS, tile=tile)
        self._ends: dict[tuple[str, ...], list[int]] = {}
        self._runs: dict[tuple[str, ...], Runs] = {}
        self._identity: str | None = None
        self._known = model.weights

    @property
    def identity(self) -> str:
        """The model's shape and a hash of its weights."""
        weights = self._weights()
        if self._identity is None:
            config = self.model.config
            bits = np.asarray(self.model.generator.programs.run(fingerprint_model, weights, cfg=config)).tolist()
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
        """As the protocol says. A deadline ends no program early: not compiling, nor `CHUNK_TOKENS` of `tile` rows."""
        begun, runs = time.perf_counter(), [self.runs(prompt) for prompt in prompts]
        for run in runs:
            self._forks.check(run)
        rows = [
            _RunningRow(prompt, dataclasses.replace(sampling, seed=seed_of(seed, j)))
            for prompt, many, seed in zip(runs, n, seeds, strict=True)
            for j in range(many)
        ]
        for part in _parts(rows, lambda row: row.prompt, self._forks.most, self.width):
            self._carry_out(part, deadline)
        made = iter([self._completion(row) for row in rows])
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(len(run) for row in rows for run in row.prompt)
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
        for part in _parts(pairs, lambda pair: pair[0], self._forks.most, self.width):
            if deadline is not None and time.monotonic() >= deadline:
                done = f"{len(found)} of {len(pairs)} continuations were scored before the deadline"
                raise BackendError(f"{done}: allow more time or score fewer")
            found += self._forks.score(weights, [prompt for prompt, _ in part], [new for _, new in part])
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(sum(map(len, prompt)) + len(new) for prompt, new in pairs)
        self._account(begun)
        scores = iter(found)
        return [[next(scores) if text else 0.0 for text in own] for own in continuations]

    def features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """The residuals after the last token of each prompt, `[n, D]` float32: what a learned head of values reads."""
        begun, weights = time.perf_counter(), self._weights()
        found = [np.zeros((0, self.model.config.d_model), np.float32)]
        runs = [self.runs(prompt) for prompt in prompts]
        for part in _parts(runs, lambda run: run, self._forks.most, self._forks.most):
            found.append(self._forks.last(self._forks.read(weights, part)))
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

    def _carry_out(self, rows: Sequence[_RunningRow], deadline: float | None) -> None:
        """Draws rows to their ends, in turns. What follows a prompt is its own prompt at the next turn."""
        weights, ends = self._weights(), self._end_ids(rows[0].params)
        draw = self._forks.draw if self.share else self._draw_apart
        width = self.width if deadline is None else min(self.width, self._sizes.tile)
        going = [row for row in rows if self._room(row)]
        while going:
            for part in _parts(going, _whole, self._forks.most, width):
                if deadline is not None and time.monotonic() >= deadline:
                    return
                turns = [min(CHUNK_TOKENS, self._room(row)) for row in part]
                params = [dataclasses.replace(row.params, max_tokens=n) for row, n in zip(part, turns, strict=True)]
                for row, new in zip(part, draw(weights, [_whole(row) for row in part], params, ends), strict=True):
                    self._grow(row, new)
            going = [row for row in going if not row.ended]

    def _grow(self, row: _RunningRow, new: ForkedRow) -> None:
        """Adds a turn's tokens, those after a stop text left out."""
        row.tokens += new.tokens
        row.logprobs += new.logprobs
        row.top += new.top
        made = len(row.tokens)
        row.text, row.stopped = self._text(row, made)
        if row.stopped and self._text(row, made - 1)[1]:
            end = bisect.bisect_left(range(made), True, key=lambda n: self._text(row, n)[1])
            for part in (row.tokens, row.logprobs, row.top):
                del part[end:]
        row.ended = row.stopped or new.stopped or not self._room(row)

    def _draw_apart(self, weights, prompts: Sequence[Runs], params: Sequence[SamplingParams], ends) -> list[ForkedRow]:
        """What `Forks.draw` gives, by reading every row's whole prompt for itself."""
        rows = [[token for run in prompt for token in run] for prompt in prompts]
        own = [dataclasses.replace(p, stop=(), ignore_eos=True, stop_token_ids=tuple(ends)) for p in params]
        made = self.model.generator.generate(weights, rows, own)
        self._forks.counts.device_calls += 1 + -(-max(map(len, made.tokens)) // GENERATOR_CHUNK_STEPS)
        self._forks.counts.prefill_tokens += sum(map(len, rows))
        parts = zip(made.tokens, made.logprobs, made.top_logprobs, made.finish_reasons, strict=True)
        return [ForkedRow(tokens, logprobs, top, reason == "stop") for tokens, logprobs, top, reason in parts]

    def _room(self, row: _RunningRow) -> int:
        """The tokens that a row may still get."""
        most = self._sizes.context - sum(map(len, row.prompt))
        return min(most, row.params.max_tokens or most) - len(row.tokens)

    def _text(self, row: _RunningRow, n: int) -> tuple[str, bool]:
        """The text of the first n new tokens, and whether a stop text ends it."""
        context = [token for run in row.prompt for token in run]
        text = Continuation(self.model.tokenizer, context, row.params.stop)
        return text.push(row.tokens[:n], last=True), text.stopped

    def _completion(self, row: _RunningRow) -> Completion:
        decode = self.model.tokenizer.decode
        likeliest = tuple({decode([i]): x for i, x in reversed(top.items())} for top in row.top)
        is_end = bool(row.tokens) and row.tokens[-1] in self._end_ids(row.params)
        return Completion(
            text=row.text,
            tokens=len(row.tokens),
            logprob=sum(row.logprobs),
            finish_reason="stop" if row.stopped or is_end else "length",
            likeliest=likeliest,
        )

    def _end_ids(self, params: SamplingParams) -> list[int]:
        """The tokens that end a row: the model's, those asked for, and those whose text holds a stop text."""
        if params.stop not in self._ends:
            tokenizer = self.model.tokenizer
            texts = enumerate(tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
            self._ends[params.stop] = [i for i, text in texts if any(stop in text for stop in params.stop)]
        own = () if params.ignore_eos else self.model.generator.eos_ids
        return [*own, *params.stop_token_ids, *self._ends[params.stop]]

    def _weights(self) -> Any:
        """The model's weights; what was kept of other ones, before an adapter was set for instance, is forgotten."""
        weights = self.model.weights
        if weights is not self._known:
            self._known, self._identity = weights, None
            self._forks.forget()
        return weights

    def _account(self, begun: float) -> None:
        counts = self._forks.counts
        self.usage.device_calls, self.usage.prefill_tokens = counts.device_calls, counts.prefill_tokens
        self.usage.seconds += time.perf_counter() - begun

    @functools.cached_property
    def _forks(self) -> Forks:
        g = self.model.generator
        how = {"compute": g.compute, "cache": g.cache, "sharding": g.sharding, "programs": g.programs}
        return Forks(self.model.config, self._sizes, **how)


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


def _whole(row: _RunningRow) -> Runs:
    """A row's prompt and what was made of it so far, a run for each turn."""
    new = tuple(row.tokens)
    return row.prompt + tuple(new[at : at + CHUNK_TOKENS] for at in range(0, len(new), CHUNK_TOKENS))


def _parts(rows: Sequence[Any], key: Callable[[Any], Runs], prompts: int, width: int):
    """The rows in order, in parts of at most `width` rows and `prompts` different prompts."""
    part, seen = [], set()
    for row in rows:
        if len(part) >= width or (key(row) not in seen and len(seen) >= prompts):
            yield part
            part, seen = [], set()
        part.append(row)
        seen.add(key(row))
    if part:
        yield part
