"""Where thoughts come from: drawn one by one, choices first and each written out once, or proposed as a list."""

import dataclasses
from collections.abc import Sequence

from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.drive import Search, ask
from vishwamai.reasoning.growth import Node, Proposals, Tree
from vishwamai.reasoning.model import Completion, pieces, seed_of
from vishwamai.reasoning.task import Task


def sampled(temperature: float, logprobs: int | None = 5) -> Proposals:
    """Each thought is a continuation of its own, drawn independently (Yao et al. 2023, "sample").

    `logprobs` is how many likeliest tokens are asked for with each; None for an endpoint that gives none.
    """

    def proposals(tree: Tree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        return (yield from _drawn(tree, nodes, n, _step(tree.task, temperature, logprobs)))

    return proposals


def distinct(temperature: float, logprobs: int | None = 5) -> Proposals:
    """Choices are drawn independently, and of equal ones at a state one is written out, by the likeliest tokens.

    For tasks with a `choice_stop`, where what follows from a choice is no choice. A choice that was written out at the
    state before is not written out again. The tokens of equal choices are counted with the first of them. `logprobs`
    is as in `sampled`.
    """

    def proposals(tree: Tree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        task = tree.task
        said = {"max_tokens": task.choice_tokens, "stop": task.choice_stop}
        how = SamplingParams(temperature=temperature, logprobs=None if logprobs is None else 0, **said)
        drawn = yield from _drawn(tree, nodes, n, how)
        chosen = [_first_ones(tree, node, row) for node, row in zip(nodes, drawn, strict=True)]
        pairs = [(node, choice) for node, row in zip(nodes, chosen, strict=True) for choice in row]
        out: list[list[Completion]] = [[] for _ in nodes]
        if not pairs:
            return out
        prompts = [(*pieces(task.prompt(tree.problem, node.steps)), choice.text) for node, choice in pairs]
        seeds = [seed_of(tree.seed, *node.path, choice.text) for node, choice in pairs]
        places = {id(node): i for i, node in enumerate(nodes)}
        written: list[list[Completion]] = [[] for _ in pairs]
        try:
            written = yield from ask(tree.budget, prompts, [1] * len(pairs), _step(task, 0.0, logprobs), seeds)
        finally:
            for (node, choice), row in zip(pairs, written, strict=True):
                if not row:
                    tree.left(node, choice, "open", "this choice was not written out: the budget or the model ended")
        for (node, choice), row in zip(pairs, written, strict=True):
            node.choices |= {choice.text for _ in row}
            out[places[id(node)]] += [_joined(choice, rest) for rest in row]
        return out

    return proposals


def proposed(question: str, temperature: float, max_tokens: int = 256) -> Proposals:
    """One continuation lists the thoughts, a line each (Yao et al. 2023, "propose"); the first `n` lines count.

    The question stands after the state's prompt. A list's tokens are counted with its first thought.
    """

    def proposals(tree: Tree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        prompts = [(*pieces(tree.task.prompt(tree.problem, node.steps)), question) for node in nodes]
        seeds = [seed_of(tree.seed, *node.path, "propose", node.draws) for node in nodes]
        how = SamplingParams(temperature=temperature, max_tokens=max_tokens)
        said = yield from ask(tree.budget, prompts, [min(many, 1) for many in n], how, seeds)
        found = [_lines(row, many) for row, many in zip(said, n, strict=True)]
        for node, row, thoughts in zip(nodes, said, found, strict=True):
            for made in row if not thoughts else ():
                tree.left(node, made, "wrong", "no thought is listed")
        return found

    return proposals


def _drawn(tree: Tree, nodes: Sequence[Node], n: Sequence[int], how: SamplingParams) -> Search[list[list[Completion]]]:
    """Continuations of the nodes' prompts, each drawn with a seed of its place."""
    seeds = [seed_of(tree.seed, *node.path, "draw", node.draws) for node in nodes]
    prompts = [tree.task.prompt(tree.problem, node.steps) for node in nodes]
    return (yield from ask(tree.budget, prompts, n, how, seeds))


def _step(task: Task, temperature: float, logprobs: int | None) -> SamplingParams:
    how = {"max_tokens": task.step_tokens, "stop": task.stop}
    return SamplingParams(temperature=temperature, logprobs=logprobs, **how)


def _first_ones(tree: Tree, node: Node, drawn: Sequence[Completion]) -> list[Completion]:
    """One completion for each choice that was not written out yet, with the tokens of all that are equal to it."""
    found: dict[str, Completion] = {}
    for made in drawn:
        if made.text in node.choices or not made.text.strip():
            tree.left(node, made, "repeat", "this choice was written out before" if made.text.strip() else "no choice")
            continue
        before = found.get(made.text, dataclasses.replace(made, tokens=0))
        found[made.text] = dataclasses.replace(before, tokens=before.tokens + made.tokens)
    return list(found.values())


def _joined(choice: Completion, rest: Completion) -> Completion:
    sums = {"tokens": choice.tokens + rest.tokens, "logprob": choice.logprob + rest.logprob}
    return dataclasses.replace(rest, text=choice.text + rest.text, **sums)


def _lines(said: Sequence[Completion], most: int) -> list[Completion]:
    lines = [line for made in said for line in made.text.split("\n") if line.strip()][:most]
    tokens = [made.tokens for made in said]
    return [Completion(text=line, tokens=tokens[0] if i == 0 else 0) for i, line in enumerate(lines)]
