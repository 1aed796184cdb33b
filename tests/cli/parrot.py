"""A model that says how many messages it was given, and the last one: for the tests of `vishwamai chat`.

Run as a program it is the command with this model. It is asked for words that never end with "forever".
"""

import sys
import time
from types import SimpleNamespace

from vishwamai.generation.programs import Stats
from vishwamai.outputs import Chunk
from vishwamai.text.tokenizer import VishwamAITokenizer


class Parrot:
    """Stands for a `VishwamAI`. `asked` are the messages of each call; `tokens` says how many each reply has."""

    def __init__(self, context: int = 200, reason: str = "stop", tokens: int = 1):
        self.tokenizer, self.config = VishwamAITokenizer.bytes(), SimpleNamespace(max_length=context)
        self.n_parameters, self.asked, self._reason, self._tokens = 1234, [], reason, tokens

    def stream(self, messages, cache, **options):
        """A reply in pieces of a word."""
        self.asked.append([(message["role"], message["content"]) for message in messages])
        text = messages[-1]["content"]
        while text == "forever":
            yield Chunk("on ", [1], [0.0])
            time.sleep(0.01)
        yield Chunk(f"{len(messages)} ", [1], [0.0])
        n_prompt = len(messages)
        stats = Stats(n_prompt, 0, self._tokens, 0.0, 0.0, 0.0, 0, 0)
        yield Chunk(text, [1], [0.0], self._reason, stats)


if __name__ == "__main__":
    from vishwamai.cli import chat, main

    chat.load_model = lambda args: Parrot()
    sys.exit(main(sys.argv[1:]))
