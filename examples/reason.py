"""Three puzzles in a chain of thought, in a tree of thoughts, and by whichever is needed.

python examples/reason.py
"""

from rich.console import Console

from vishwamai import VishwamAI
from vishwamai.reasoning import Budget, ChainOfThought, IntegratedReasoning, Local, TreeOfThoughts
from vishwamai.reasoning.show import terminal

PUZZLES = ["4 9 10 13", "5 5 5 9", "1 2 4 7"]


def main() -> None:
    console = Console(highlight=False)
    model = Local(VishwamAI.from_pretrained("vishwamai/base"), context=320)

    chain = ChainOfThought(model, task="game24").solve(PUZZLES[0])
    for step in chain.steps:
        console.print("right" if step.valid else "wrong", step.text)
    console.print(f"{chain.answer}, after {chain.tokens} tokens\n")

    tree = TreeOfThoughts(model, max_branches=3, max_depth=3, beam_width=2, temperature=1.0, task="game24", rounds=4)
    for found in tree.solve_all(PUZZLES, each={"tokens": 600}):
        console.print(terminal(found.trace, console.width), "")

    both = IntegratedReasoning(model, task="game24")
    for found in both.solve_all(PUZZLES, budget=Budget(seconds=120)):
        console.print(f"{found.problem}: {found.answer} ({'; '.join(found.stages)})")


if __name__ == "__main__":
    main()
