"""A conversation with a model: what was said so far, its cache, and the file that it is saved in. It prints nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vishwamai import config
from vishwamai.errors import ConfigError, InputError, TokenizerError

if TYPE_CHECKING:
    from vishwamai.api import VishwamAI
    from vishwamai.outputs import Chunk

LEFT_OUT = "the message is left out. /reset begins anew, and /save FILE keeps what was said"
MAX_BYTES = 100_000_000  # of a saved conversation


class Conversation:
    """Messages, and the model that replies to them. Whatever is refused leaves them as they were."""

    def __init__(self, model: VishwamAI, system: str | None = None):
        """`system` is what the model is told first; raises `InputError` where its template shows no such message."""
        from vishwamai.generation.prompt_cache import PromptCache

        self.model, self._cache = model, PromptCache()
        self._first = [] if system is None else [{"role": "system", "content": system}]
        if self._first:
            try:
                self._n_tokens([*self._first, {"role": "user", "content": "Hello"}])
            except InputError as error:
                raise InputError(f"--system: {error}") from None
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the first message to the model."""
        self.messages: list[Mapping[str, Any]] = list(self._first)

    def reply(self, text: str, **options: Any) -> Generator[Chunk]:
        """The reply to a message, as it comes. One that is left before its end is part of the conversation so far.

        Raises `InputError` for a message that does not fit the context, or that the model's template refuses.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        try:
            n, most = self._n_tokens(asked), self.model.config.max_length
        except (InputError, TokenizerError) as error:
            raise InputError(f"{error}; {LEFT_OUT}") from None
        if n >= most:
            raise InputError(
                f"the conversation and this message have {n} tokens, and the model's context of {most} must hold the "
                f"reply too; {LEFT_OUT}"
            )
        return self._record(asked, self.model.stream(asked, cache=self._cache, **options))

    def save(self, path: Path) -> None:
        """Writes the messages as one line of JSON, which is a row of chat training data too."""
        if not self.messages:
            raise InputError("nothing was said yet, so there is nothing to save")
        partial = path.with_name(f"{path.name}.partial")
        try:
            partial.write_text(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); give another name") from None

    def load(self, path: Path) -> None:
        """Takes the messages of a file in place of these. Raises `ConfigError` or `InputError` for others than ours."""
        try:
            data = config.load_json(path, max_bytes=MAX_BYTES)
        except ConfigError as error:
            if "(Extra data, column 1)" not in str(error):
                raise
            raise InputError(f"{path}: has more than one conversation, and /load reads a file with one") from None
        if data.keys() != {"messages"}:
            raise InputError(f'{path}: has {", ".join(data) or "no keys"}; a conversation is {{"messages": [...]}}')
        try:
            self._n_tokens(data["messages"])
        except (InputError, TokenizerError) as error:
            raise InputError(f"{path}: {error}") from None
        self.messages = data["messages"]

    def _n_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        from vishwamai.text.chat import encode_chat

        return len(encode_chat(self.model.tokenizer, messages))

    def _record(self, asked: list[Mapping[str, Any]], chunks: Iterator[Chunk]) -> Generator[Chunk]:
        text, has_ended = "", False
        try:
            for chunk in chunks:
                text, has_ended = text + chunk.text, chunk.finish_reason is not None
                yield chunk
        finally:
            if text or has_ended:
                self.messages = [*asked, {"role": "assistant", "content": text}]
