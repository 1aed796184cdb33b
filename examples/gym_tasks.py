"""The tasks of the package reasoning-gym: its questions as free text, and its own judges of the answers.

pip install "vishwamai[gym]"
python examples/gym_tasks.py

Some judges evaluate an answer as code (that of "countdown"): run those where a model's words can do no harm.
"""

from vishwamai.reasoning import ChainOfThought, Scripted
from vishwamai.reasoning.tasks.text import FreeText


def gym(name: str, size: int = 10, seed: int = 0, **config) -> tuple[FreeText, list[str]]:
    """The task and the questions of a data set; an answer is right where the data set scores it 1."""
    import reasoning_gym

    data = reasoning_gym.create_dataset(name, size=size, seed=seed, **config)
    entries = {entry["question"]: entry for entry in data}

    def is_right(question: str, answer: str) -> bool:
        return data.score_answer(answer, entries[question]) == 1

    return FreeText(final=is_right), list(entries)


def main() -> None:
    try:
        task, questions = gym("chain_sum")
    except ImportError as error:
        print(f'reasoning-gym cannot be imported ({error}); run: pip install "vishwamai[gym]"')
        return
    # In the place of a model, which VishwamAI.from_pretrained would load:
    model = Scripted(lambda prompt, n: ["Step 1: I guess.\nAnswer: 10"] * n)
    for found in ChainOfThought(model, task=task).solve_all(questions):
        print(found.problem, found.answer, found.verified)


if __name__ == "__main__":
    main()
