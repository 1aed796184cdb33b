"""Where thoughts come from: drawn one by one from the state's prompt, or proposed as a list in one continuation."""

from collections.abc import Sequence

from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.drive import Search, ask
from vishwamai.reasoning.growth import Node, Proposals, Tree
from vishwamai.reasoning.model import Completion, pieces, seed_of


def sampled(temperature: float) -> Proposals:
    """Each thought is a continuation of its own, drawn independently (Yao et al. 2023, "sample")."""

    def proposals(tree: Tree, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[list[Completion]]]:
        return (yield from tree.draw(nodes, n, tree.sampling(temperature)))

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
        return [_lines(row, many) for row, many in zip(said, n, strict=True)]

    return proposals


def _lines(said: Sequence[Completion], most: int) -> list[Completion]:
    lines = [line for made in said for line in made.text.split("\n") if line.strip()][:most]
    tokens = [made.tokens for made in said]
    return [Completion(text=line, tokens=tokens[0] if i == 0 else 0) for i, line in enumerate(lines)]
