"""Ways to generate thoughts: drawn one by one, choices first and each written out once, or proposed as a list."""

import dataclasses
from collections.abc import Sequence

from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.drive import Search, ask
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.search_tree import Node, SearchTree, ThoughtGenerator
from vishwamai.reasoning.task import Task


def sampled(temperature: float, logprobs: int | None = 5) -> ThoughtGenerator:
    """Each thought is a continuation of its own, drawn independently (Yao et al. 2023, "sample").

    `logprobs` is how many likeliest tokens are asked for with each; None for an endpoint that gives none.
    """

    def generate(tree: SearchTree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        return (yield from _draw(tree, nodes, n, _step_params(tree.task, temperature, logprobs)))

    return generate


def distinct(temperature: float, logprobs: int | None = 5) -> ThoughtGenerator:
    """Choices are drawn independently, and of equal ones at a state one is written out, by the likeliest tokens.

    For tasks with a `choice_stop`, where what follows from a choice is no choice. A choice that was written out at the
    state before is not written out again. The tokens of equal choices are counted with the first of them. `logprobs`
    is as in `sampled`.
    """

    def generate(tree: SearchTree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        task = tree.task
        params = SamplingParams(
            temperature=temperature,
            max_tokens=task.choice_tokens,
            stop=task.choice_stop,
            logprobs=None if logprobs is None else 0,
        )
        drawn = yield from _draw(tree, nodes, n, params)
        pairs = [(node, c) for node, row in zip(nodes, drawn, strict=True) for c in _new_choices(tree, node, row)]
        prompts = [(*tree.prompt(node), choice.text) for node, choice in pairs]
        seeds = [tree.seed_at(node, choice.text) for node, choice in pairs]
        thoughts: dict[Node, list[Completion]] = {node: [] for node in nodes}
        rest: list[list[Completion]] = [[] for _ in pairs]
        try:
            rest = yield from ask(tree.budget, prompts, [1] * len(pairs), _step_params(task, 0.0, logprobs), seeds)
        finally:
            for (node, choice), written in zip(pairs, rest, strict=True):
                thoughts[node] += [_join(choice, completion) for completion in written]
                if written:
                    node.choices.add(choice.text)
                else:
                    why = "this choice was not written out: the budget or the model ended"
                    tree.record(node, choice, "open", why)
        return list(thoughts.values())

    return generate


def proposed(question: str, temperature: float, max_tokens: int = 256) -> ThoughtGenerator:
    """One continuation lists the thoughts, a line each (Yao et al. 2023, "propose"); the first `n` lines count.

    The question stands after the state's prompt. A list's tokens are counted with its first thought.
    """

    def generate(tree: SearchTree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        prompts = [(*tree.prompt(node), question) for node in nodes]
        seeds = [tree.seed_at(node, "propose", node.expansions) for node in nodes]
        params = SamplingParams(temperature=temperature, max_tokens=max_tokens)
        lists = yield from ask(tree.budget, prompts, [min(most, 1) for most in n], params, seeds)
        thoughts = []
        for node, row, most in zip(nodes, lists, n, strict=True):
            lines = [line for made in row for line in made.text.split("\n") if line.strip()][:most]
            tokens = [sum(made.tokens for made in row), *[0] * most]
            thoughts.append([Completion(text=line, tokens=t) for line, t in zip(lines, tokens, strict=False)])
            for made in row if not lines else ():
                tree.record(node, made, "wrong", "no thought is listed")
        return thoughts

    return generate


def _draw(
    tree: SearchTree, nodes: Sequence[Node], n: Sequence[int], params: SamplingParams
) -> Search[list[list[Completion]]]:
    """Continuations of the nodes' prompts."""
    seeds = [tree.seed_at(node, "draw", node.expansions) for node in nodes]
    return (yield from ask(tree.budget, [tree.prompt(node) for node in nodes], n, params, seeds))


def _step_params(task: Task, temperature: float, logprobs: int | None) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=task.step_tokens, stop=task.stop, logprobs=logprobs)


def _new_choices(tree: SearchTree, node: Node, drawn: Sequence[Completion]) -> list[Completion]:
    """One completion for each choice that was not written out yet, with the tokens of all that are equal to it."""
    choices: dict[str, Completion] = {}
    for choice in drawn:
        text = choice.text
        if not text.strip():
            tree.record(node, choice, "repeat", "no choice")
        elif text in node.choices:
            tree.record(node, choice, "repeat", "this choice was written out before")
        elif text in choices:
            choices[text] = dataclasses.replace(choices[text], tokens=choices[text].tokens + choice.tokens)
        else:
            choices[text] = choice
    return list(choices.values())


def _join(choice: Completion, rest: Completion) -> Completion:
    sums = {"tokens": choice.tokens + rest.tokens, "logprob": choice.logprob + rest.logprob}
    return dataclasses.replace(rest, text=choice.text + rest.text, **sums)
