"""`VishwamAI`: the face. A model with its tokenizer, layout and precision, and what people ask of it.

Methods of a few lines over the rooms below: `hf` loads and saves, `text` reads and writes text, `generation` makes
tokens. It knows how arguments may be said, and nothing of how a token is made.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp

from vishwamai import compile_cache
from vishwamai import config as configurations
from vishwamai.errors import InputError, TokenizerError
from vishwamai.generation.generator import Generator
from vishwamai.generation.options import ARGUMENTS, GenerationOptions, from_generation_config, parse_options
from vishwamai.generation.programs import Clock, Programs
from vishwamai.generation.prompt_cache import PromptCache
from vishwamai.generation.prompts import PaddingToken, Prompts, rows_of
from vishwamai.generation.requests import pad_rows
from vishwamai.generation.results import Generation as Made
from vishwamai.gguf.convert import stage_gguf
from vishwamai.gguf.source import find_tokenizer, open_source
from vishwamai.hf import adapters as hf_adapters
from vishwamai.hf import saving
from vishwamai.hf import weights as hf_weights
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.hub import resolve
from vishwamai.models import cost, transformer
from vishwamai.models.config import ModelConfig, is_unrolled_faster, unroll
from vishwamai.models.transformer import Transformer
from vishwamai.outputs import Chunk, Generated, Reply, Score
from vishwamai.parallel import hosts
from vishwamai.parallel.sharding import DEFAULT_RULES, Sharding, init_sharded, sharding_of
from vishwamai.precision import AUTO, Precision
from vishwamai.progress import Progress, silent
from vishwamai.text.chat import encode_chat, split_chat
from vishwamai.text.continuation import Continuation
from vishwamai.text.messages import ChatMessage, Message
from vishwamai.text.roles import count_around, role_of
from vishwamai.text.settings import TOKENIZER_FILES
from vishwamai.text.stream import Trimmer
from vishwamai.text.tokenizer import VishwamAITokenizer
from vishwamai.weights import lora, spec


def read_config(path: str | Path) -> ModelConfig:
    """The model in a JSON file: its `model` section, or the whole file where it has none."""
    data = configurations.load_json(path)
    return configurations.from_dict(ModelConfig, data.get("model", data), str(path))


class VishwamAI:
    """A language model, ready to use. Its fields are set once."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Transformer,
        *,
        tokenizer: VishwamAITokenizer | Callable[[], VishwamAITokenizer] | None = None,
        generation_config: GenerationConfig | None = None,
        model_type: str | None = None,
        sharding: Sharding | None = None,
        precision: Precision | None = None,
        progress: Progress = silent,
    ):
        """`tokenizer` may be what reads it, at its first use; `progress` shows what takes long."""
        self.config, self.weights, self.model_type = config, weights, model_type
        self.generation_config = generation_config or _facts(tokenizer)
        self.sharding, self.precision = sharding or Sharding(), precision or Precision()
        self.adapters: dict[str, lora.Adapter] = {}  # loaded, by name
        self.dtype_note = self.precision.compute  # and why, where it was chosen for a checkpoint
        self.layers_note = ""  # how they lie, where that was chosen
        self._tokenizer, self._progress = tokenizer, progress

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        dtype: str = AUTO,
        quantization: str | None = None,
        mesh: Mapping[str, int] | jax.sharding.Mesh | None = None,
        rules: Any = DEFAULT_RULES,
        scan_layers: bool | None = None,
        progress: Progress = silent,
    ) -> Self:
        """The model of a built-in name (`vishwamai/base`), a local folder or GGUF file, or a Hugging Face repository.

        Of a folder or a repository that has several GGUF files `gguf_file` names one. `dtype` ("float32", "bfloat16",
        "float16") is that of weights, computation and cache; "auto" is the checkpoint's own, and float32 for bfloat16
        or fewer bits on a CPU; the model's `dtype_note` says which was taken and why. `quantization`
        ("int8", "int4", "fp8", or with the inputs that share a scale, "int4:64") stores the layers' projections in
        fewer bits; "keep" leaves those that are stored quantised as they are. `mesh` sizes its axes, as in
        `{"fsdp": 4, "tensor": 2}` (None: one device), and `rules` lay the weights' axes over it. With `scan_layers`
        layers that are alike are stacked and compiled once, as in training; without, each is compiled by itself, which
        takes longer and decodes faster on a CPU (None: by device, dtype and depth; `layers_note` says which).
        `progress` shows what takes long, now and when the model is used.
        """
        compile_cache.enable()
        if dtype != AUTO:
            Precision(weights=dtype)  # refused before anything is fetched
        sharding, source = sharding_of(mesh, rules), open_source(name, revision=revision, gguf_file=gguf_file)
        found = source.pretrained
        if asked := found.generation.not_followed():
            warnings.warn(f"{source.path}: in generating it asks for {asked}, which is not followed", stacklevel=2)
        dtype, why = hf_weights.choose_load_dtype(source, found, dtype, sharding.platform)
        if scan_layers is None:
            kinds = hf_weights.layer_kinds(source, found, dtype, quantization)
            is_faster = all(is_unrolled_faster(found.model, sharding.platform, kind) for kind in kinds)
            scan_layers = mesh is not None or not is_faster
        arranged = found.model.stacked if scan_layers else unroll(found.model)
        found = dataclasses.replace(found, model=arranged)
        how = {"sharding": sharding, "dtype": dtype, "quantization": quantization, "progress": progress}
        weights = hf_weights.load_weights(source, found, **how)
        facts = {"generation_config": found.generation, "model_type": found.model_type}
        facts["tokenizer"] = find_tokenizer(source)
        precision = Precision(weights=dtype, compute=dtype, cache=dtype)
        model = cls(found.model, weights, sharding=sharding, precision=precision, progress=progress, **facts)
        model.dtype_note = f"{dtype}: {why}"
        model.layers_note = "layers scanned in stacks" if scan_layers else "each layer compiled by itself"
        return model

    @classmethod
    def from_config(
        cls,
        config: ModelConfig | str | Path,
        *,
        seed: int = 0,
        dtype: str = "float32",
        mesh: Mapping[str, int] | jax.sharding.Mesh | None = None,
        rules: Any = DEFAULT_RULES,
        tokenizer: VishwamAITokenizer | None = None,
    ) -> Self:
        """A new model with random weights, from a `ModelConfig` or a JSON file with one."""
        compile_cache.enable()
        config = config if isinstance(config, ModelConfig) else read_config(config)
        precision, sharding = Precision(weights=dtype, compute=dtype, cache=dtype), sharding_of(mesh, rules)
        specs = spec.with_dtype(transformer.specs(config), jnp.dtype(dtype))
        weights = init_sharded(specs, jax.random.key(seed), sharding)
        return cls(config, weights, tokenizer=tokenizer, sharding=sharding, precision=precision)

    def save_pretrained(self, folder: str | Path, *, dtype: str | None = None) -> None:
        """Writes weights, configuration and tokenizer to a folder that `from_pretrained` and transformers load.

        They replace at once what an earlier save left there: a folder is never half the one and half the other.
        `dtype` is that of the weights written (None: as they are).
        """
        tokenizer = None if self._tokenizer is None else self.tokenizer
        facts = {"model_type": self.model_type, "generation": self.generation_config}
        with saving.stage_folder(Path(folder), () if tokenizer is None else TOKENIZER_FILES) as staging:
            saving.save_model(staging, self.weights, self.config, dtype=dtype, **facts)
            if tokenizer is not None and hosts.is_first():
                tokenizer.save_pretrained(staging)

    def save_gguf(self, file: str | Path, *, kind: str | None = None) -> None:
        """Writes weights, configuration and tokenizer to a new GGUF file, which llama.cpp loads too.

        `kind` is one of `gguf.convert.KINDS`, such as "q8_0" or "bf16" (None: weights as they are).
        """
        with stage_gguf(Path(file), kind) as staging:
            self.save_pretrained(staging)

    def load_adapter(self, source: str | Path, name: str = "default", *, revision: str | None = None) -> None:
        """Reads a PEFT adapter from a folder or a hub repository, and makes it the active one."""
        folder = resolve(source, revision=revision, part="adapter")
        if hf_adapters.needs_untying(folder, self.config, self.model_type):
            self.weights, self.config = transformer.untie_embeddings(
                lora.detach(self.weights), self.config, self.sharding
            )
            self.__dict__.pop("generator", None)  # which knows the configuration
        self.adapters[name] = hf_adapters.load_adapter(folder, self.config, self.model_type, sharding=self.sharding)
        self.set_adapter(name)

    def set_adapter(self, names: str | Sequence[str] | Mapping[str, float] | None) -> None:
        """Which adapters are active: one, the sum of several, a weighed sum `{name: weight}`, or None.

        Another adapter of the same rank and targets runs the programs that are compiled already.
        """
        self.weights = lora.attach(self.weights, lora.select(self.adapters, names))

    def save_adapter(self, folder: str | Path, name: str = "default") -> None:
        """Writes a loaded adapter to a folder that PEFT and `load_adapter` read."""
        [adapter] = lora.select(self.adapters, name)
        hf_adapters.save_adapter(Path(folder), adapter, self.config, self.model_type)

    def merge_adapter(self) -> None:
        """Makes the active adapters part of the weights, for good; the model has no adapters then."""
        self.weights, self.adapters = lora.merge(self.weights), {}

    @property
    def tokenizer(self) -> VishwamAITokenizer:
        """The model's own tokenizer. Raises `TokenizerError` where it has none."""
        if self._tokenizer is None:
            raise TokenizerError("this model has no tokenizer: give token ids, or a tokenizer when making the model")
        if not isinstance(self._tokenizer, VishwamAITokenizer):
            self._tokenizer = self._tokenizer()
        return self._tokenizer

    @property
    def n_parameters(self) -> int:
        """How many numbers the weights hold."""
        return cost.count_parameters(self.config).total

    @functools.cached_property
    def generator(self) -> Generator:
        """What makes this model's tokens, with the programs compiled so far."""
        return Generator(
            cfg=self.config,
            eos_ids=self._end_ids(),
            sharding=self.sharding,
            compute_dtype=self.precision.compute,
            cache_dtype=self.precision.cache,
            make_stop_checker=None if self._tokenizer is None else self._text,
            programs=Programs(self._progress),
        )

    # Making text.

    def generate(
        self, input_ids: Prompts, *, attention_mask: Any = None, return_dict: bool = False, **given: Any
    ) -> jax.Array | Generated:
        """Continues prompts: int32 `[B, T]` with each prompt before its new tokens, padded at the right after its end.

        `input_ids` is a text, texts, ids, rows of ids, or an array `[T]` or `[B, T]`. An array's rows may be padded at
        either side, as `attention_mask` (0: padding) or else the padding token says (`pad_token_id`, the model's or the
        tokenizer's; without one, nothing is padding); padding at the left stays, so that `outputs[:, T:]` is what is
        new. `given` are some of `ARGUMENTS`. With `return_dict` a `Generated` comes back. Raises `InputError`.
        """
        asked = self._options(given, returns_logprobs=return_dict)
        rows, gaps = self._rows(input_ids, attention_mask, asked.pad_token_id)
        made = self._generate(rows, asked)
        pad_id = self._pad_id(asked.pad_token_id)
        before = asked.repeat([[pad_id] * gap + row for row, gap in zip(rows, gaps, strict=True)])
        whole = [old + new for old, new in zip(before, made.tokens, strict=True)]
        sequences = jax.device_put(pad_rows(whole, len(whole), max(map(len, whole)), pad_id))
        if not return_dict:
            return sequences
        texts = None if self._tokenizer is None else self._texts(rows, made, asked)
        top = None if asked.params.logprobs is None else made.top_logprobs
        return Generated(sequences, made.logprobs, made.finish_reasons, texts, made.stats, made.scores, top)

    def complete(self, texts: str | Sequence[str], **given: Any) -> list[str]:
        """What comes after each text, without special tokens and stop texts; `given` are some of `ARGUMENTS`."""
        asked = self._options(given)
        rows = [self.tokenizer.encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return self._texts(rows, self._generate(rows, asked), asked)

    def stream(self, prompt: Any, *, cache: PromptCache | None = None, **given: Any) -> Iterator[Chunk]:
        """The continuation of one prompt (text, ids, or messages) as it is made; a character is never cut.

        The last chunk has the reason of the end and the stats. A reply to messages has no white space around it. With
        a `cache`, what it holds of the prompt is not read again. `given` are some of `ARGUMENTS`, and with messages
        those of `generate_chat`; beams do not stream.
        """
        is_chat = isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping | ChatMessage)
        asked, row = (
            self._chat(prompt, given, returns_logprobs=True)
            if is_chat
            else (self._options(given, returns_logprobs=True), None)
        )
        if asked.beams is not None or asked.num_return_sequences > 1:
            raise InputError("a stream has one row: pass num_beams=1 and num_return_sequences=1")
        rows = [row] if row is not None else self._rows(prompt, pad_id=asked.pad_token_id)[0]
        if len(rows) > 1:
            raise InputError(f"a stream has one prompt, not {len(rows)}; use generate for several")
        chunks = self.generator.stream(self.weights, rows, asked.row_params(rows), cache=cache)
        trimmer = Trimmer(leading=not given.get("continue_final_message")) if is_chat else None
        return self._chunks(chunks, rows[0], asked, trimmer, cache)

    def generate_chat(self, messages: Sequence[Message], *, cache: PromptCache | None = None, **given: Any) -> Reply:
        """The assistant's next message. `messages` are like `{"role": "user", "content": "Hello"}`.

        What a person typed never becomes a control token. One `cache` for all calls of a conversation, and what it
        holds is not read again. `given` are some of `ARGUMENTS`, fields of `ChatOptions` (`tools`, `documents`,
        `add_generation_prompt`, `continue_final_message`, `chat_template`), and variables of the template. A message
        that is continued is not in the reply.
        """
        asked, row = self._chat(messages, given)
        if asked.num_return_sequences > 1:
            raise InputError("a chat has one reply: pass num_return_sequences=1, or call it again with another seed")
        rows, is_continued = [row], given.get("continue_final_message")
        made = self._generate(rows, asked, cache)
        old, new = len(rows[0]), len(made.tokens[0])
        usage = {"prompt_tokens": old, "completion_tokens": new, "total_tokens": old + new}
        text = self._texts(rows, made, asked)[0].rstrip()
        return Reply(text if is_continued else text.lstrip(), made.finish_reasons[0], usage, made.stats)

    def __call__(self, input_ids: Any, attention_mask: Any = None) -> jax.Array:
        """Logits `[B, T, V]`, float32, of ids `[T]` or `[B, T]`, padded at either side where `attention_mask` is 0.

        Those at padded places mean nothing. Without a mask every token is real.
        """
        return self.generator.logits(self.weights, input_ids, attention_mask)

    def score(self, texts: Prompts, *, attention_mask: Any = None) -> list[Score]:
        """How likely each text (or row of ids) is, token by token; `attention_mask` is as in `generate`."""
        rows, _ = self._rows(texts, attention_mask)
        found = self.generator.score(self.weights, rows)
        return [Score(row, logprobs.tolist()) for row, logprobs in zip(rows, found, strict=True)]

    # What these share.

    def _options(self, given: Mapping[str, Any], **kind: Any) -> GenerationOptions:
        return parse_options(given, from_generation_config(self.generation_config.settings()), **kind)

    def _rows(self, prompts: Prompts, mask: Any = None, pad_id: int | None = None) -> tuple[list[list[int]], list[int]]:
        return rows_of(prompts, self._encode, mask=mask, padding=lambda: self._padding_token(pad_id))

    def _padding_token(self, named: int | None) -> PaddingToken | None:
        """The padding token, and what else it is."""
        if (pad_id := self._padding(named)) is None:
            return None
        role = "an end token" if pad_id in self._end_ids() else ""
        role = role or ("the start token" if pad_id == self.generation_config.bos_id else "")
        if self._tokenizer is None:
            return PaddingToken(pad_id, role, is_named=named is not None)
        role, around = role or role_of(self.tokenizer, pad_id), count_around(self.tokenizer, pad_id)
        return PaddingToken(pad_id, role, is_named=named is not None, around=around)

    def _chat(
        self, messages: Sequence[Message], given: Mapping[str, Any], **kind: bool
    ) -> tuple[GenerationOptions, list[int]]:
        """(how a reply is made, the ids of the prompt)."""
        chat, rest, others = split_chat(self.tokenizer, given, ARGUMENTS)
        return self._options(rest, template_variables=others, **kind), encode_chat(self.tokenizer, messages, **chat)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def _generate(self, rows: list[list[int]], asked: GenerationOptions, cache: PromptCache | None = None) -> Made:
        if asked.beams is not None:
            if cache is not None:
                raise InputError(f"a PromptCache has one row and num_beams is {asked.beams.num_beams}; leave one out")
            return self.generator.search(self.weights, rows, asked.beams, asked.row_params(rows))
        return self.generator.generate(self.weights, asked.repeat(rows), asked.row_params(rows), cache=cache)

    def _text(self, prompt: Sequence[int], stop: Sequence[str] = ()) -> Continuation:
        """The text after a prompt, to come."""
        return Continuation(self.tokenizer, prompt, stop)

    def _texts(self, rows: list[list[int]], made: Made, asked: GenerationOptions) -> list[str]:
        """The new text of each row."""
        pairs = zip(asked.repeat(rows), made.tokens, strict=True)
        return [self._text(row, asked.params.stop).push(new, last=True) for row, new in pairs]

    def _chunks(
        self,
        chunks: Iterator[Any],
        row: list[int],
        asked: GenerationOptions,
        trimmer: Trimmer | None,
        cache: PromptCache | None,
    ) -> Iterator[Chunk]:
        text = None if self._tokenizer is None else self._text(row, asked.params.stop)
        clock, part, made = Clock(self.generator.programs), "prefill", 0
        for chunk in chunks:
            clock.lap(part)
            part, made, last = "decode", made + len(chunk.tokens), chunk.finish_reason is not None
            new = "" if text is None else text.push(chunk.tokens, last=last)
            new = new if trimmer is None else trimmer.push(new)
            stats = clock.stats(len(row), made, 0 if cache is None else cache.cached_tokens) if last else None
            top = None if asked.params.logprobs is None else chunk.top_logprobs
            yield Chunk(new, chunk.tokens, chunk.logprobs, chunk.finish_reason, stats, top)
            clock.lap(None)

    def _end_ids(self) -> tuple[int, ...]:
        known = self.generation_config.eos_ids
        if known is None:
            return () if self._tokenizer is None else tuple(self.tokenizer.eos_token_ids)
        return known

    def _padding(self, asked: int | None = None) -> int | None:
        """The padding token: the one asked for, the model's or the tokenizer's; None where nobody names one."""
        of_tokenizer = None if self._tokenizer is None else self.tokenizer.pad_token_id
        choices = (asked, self.generation_config.pad_id, of_tokenizer)
        return next((choice for choice in choices if choice is not None), None)

    def _pad_id(self, asked: int | None = None) -> int:
        """The id that fills rows up: the padding token, else an end token, else 0."""
        padding = self._padding(asked)
        return next(iter(self._end_ids()), 0) if padding is None else padding


def _facts(tokenizer: VishwamAITokenizer | Callable[[], VishwamAITokenizer] | None) -> GenerationConfig:
    """Where a text ends, by a tokenizer alone."""
    if not isinstance(tokenizer, VishwamAITokenizer):
        return GenerationConfig()
    ends = tuple(tokenizer.eos_token_ids) or None
    return GenerationConfig(eos_ids=ends, bos_id=tokenizer.bos_token_id, pad_id=tokenizer.pad_token_id)
