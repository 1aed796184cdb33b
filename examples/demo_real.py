"""`make demo-real`: a published model chats, reasons in several ways and is tuned for a minute, on two cores, offline.

SmolLM2-135M-Instruct (`make smollm` fetches it) is asked 48 held-out word problems, each way of reasoning with what it
takes in tokens. Then it is tuned with LoRA on problems that `vishwamai.data` makes, and asked the same again. The right
answers grade what is submitted and are known to no way of reasoning. It needs the `train` and the `gguf` extra.
"""

import argparse
import itertools
import json
import math
import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import ROOT, console, live_loss
from rich.markup import escape
from rich.table import Table

from vishwamai import VishwamAI, config
from vishwamai.data import generated, word_problems
from vishwamai.data.rows import Problem
from vishwamai.data.word_problems import StoryStep
from vishwamai.hf import adapters
from vishwamai.reasoning import ChainOfThought, Local, Solution, TreeOfThoughts, answers
from vishwamai.reasoning.model import Prompt
from vishwamai.reasoning.search_tree import Node, SearchTree
from vishwamai.reasoning.tasks.text import FreeText
from vishwamai.reasoning.tasks.word_problems import WordProblems
from vishwamai.training import trainer
from vishwamai.training.config import RunConfig

MODEL = ROOT / ".smollm" / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ("What is the capital of France?", "Write one sentence about the sea.")
WORKED = (2, 3)  # steps of the worked problems that the untuned model sees first
ROWS = 2000  # that it is tuned on, more than it comes to
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
NUMBER = re.compile("[0-9]{1,6}")
CALCULATION = re.compile(r"([0-9]{1,6}) ([-+*/]) ([0-9]{1,6})$")
SENTENCES = re.compile("(?<=[.?]) ")
Worked = tuple[str, list[StoryStep]]
State = tuple[tuple[int, ...], int | None]


class Stories(WordProblems):
    """The built-in word problems for a model that knows no more of them than `worked` ones.

    A step repeats a sentence of the problem and computes: `He buys 25 more. 47 + 25 = 72`. Whether an answer is right
    is not said, so that no search can ask.
    """

    name = "stories"
    step_tokens = 28
    chain_tokens = 80
    chain_stop = ("\n\n", "Question:")

    def __init__(self, worked: Sequence[Worked] = ()):
        self.shown = "".join(f"{ask(text)}{write(text, steps)}\n\n" for text, steps in worked)

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return (self.shown, ask(problem), *(f"{step.strip()}\n" for step in steps))

    def check(self, problem: str, answer: str) -> bool | None:
        return None

    def holds(self, problem: str, chain: str) -> bool:
        """Whether all steps of a chain compute, and its answer is the last one's result."""
        state = self.read(problem)
        for line in self.split(chain):
            if state is not None:
                state = self.step(state, line)
        return state is not None and self.answer(problem, (), state) is not None


class Calculated(Stories):
    """Stories of which the model writes `He buys 25 more. 47 + 25` and a calculator the result.

    A step takes the last result and a number of the problem that was not taken yet, so a state is the numbers left and
    the last result. What stands there when none is left is the answer.
    """

    name = "calculated"
    stop = (" =", "\n")

    def read(self, problem: str) -> State:
        return tuple(sorted(map(int, NUMBER.findall(problem)))), None

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return super().prompt(problem, [f"{step.strip()} = {calculate(step)}" for step in steps])

    def step(self, state: State, text: str) -> State | None:
        left, last = list(state[0]), state[1]
        match, result = CALCULATION.search(text.strip()), calculate(text)
        if match is None or result is None:
            return None
        numbers = int(match[1]), int(match[3])
        if last is not None and last not in numbers:
            return None
        left += [] if last is None else [last]
        for number in numbers:
            if number not in left:
                return None
            left.remove(number)
        return tuple(sorted(left)), result

    def answer(self, problem: str, steps: Sequence[str], state: State) -> str | None:
        return None if state[0] or state[1] is None else str(state[1])

    def depth_of(self, problem: str) -> int:
        return max(len(self.read(problem)[0]) - 1, 1)


def ask(problem: str) -> str:
    """A problem as the model reads it, in examples and in training too."""
    return f"Question: {problem}\n"


def write(problem: str, steps: Sequence[StoryStep]) -> str:
    """The steps to a problem as the model is to write them: the sentence that each number but the first stands in."""
    sentences = [part for part in SENTENCES.split(problem) for _ in NUMBER.findall(part)][1:]
    pairs = zip(sentences, steps, strict=True)
    lines = [f"{about} {s.before} {s.op} {s.number} = {s.result}\n" for about, s in pairs]
    return "".join(lines) + f"Answer: {steps[-1].result}"


def calculate(text: str) -> int | None:
    """What the calculation at the end of a text comes to; None where that is no whole number, or below 0."""
    match = CALCULATION.search(text.strip())
    if match is None or (match[2] == "/" and (int(match[3]) == 0 or int(match[1]) % int(match[3]))):
        return None
    result = OPERATIONS[match[2]](int(match[1]), int(match[3]))
    return result if result >= 0 else None


def worked_problems() -> list[Worked]:
    """Training problems with their steps, one for each number of steps in `WORKED`."""
    made, rng = iter(lambda: word_problems.problem(rng, "train"), None), random.Random(0)
    return [next(problem for problem in made if len(problem[1]) == n) for n in WORKED]


def path_likelihood(tree: SearchTree, nodes: Sequence[Node]) -> Iterator[Any]:
    """Values of states: how likely the model finds the steps to each, by what it wrote already."""
    return [math.exp(math.fsum(one.thought.logprob for one in node.ancestry)) for node in nodes]
    yield  # it asks the model for nothing


@dataclass(frozen=True)
class Way:
    """What one way of reasoning came to; `tokens` are new ones, of a problem."""

    model: str
    name: str
    right: float
    tokens: float
    seconds: float


@dataclass
class Reasoner:
    """A model that is asked the same problems in one way after another."""

    name: str
    model: Local
    worked: Sequence[Worked]
    problems: list[Problem]
    ways: list[Way]

    def note(self, way: str, found: Sequence[Solution], submitted: Sequence[str | None], seconds: float) -> None:
        """Grades the answers that were submitted."""
        pairs = zip(self.problems, submitted, strict=True)
        right = sum(answers.equal(answer or "", problem.answer.split()[-1]) for problem, answer in pairs)
        tokens = sum(one.tokens for one in found) / len(found)
        self.ways.append(Way(self.name, way, right, tokens, seconds))
        console.print(f"  {self.name}, {way}: {right} of {len(found)} right, {tokens:.0f} tokens, {seconds:.0f} s")

    def solve(self, way: str, solver: Any) -> tuple[list[Solution], float]:
        """The solutions of all problems at once, and the seconds that they took."""
        begun = time.monotonic()
        with console.status(f"{self.name}, {way}: {len(self.problems)} problems at once"):
            found = solver.solve_all([problem.prompt for problem in self.problems])
        return found, time.monotonic() - begun

    def by_chat(self, template: str) -> None:
        """One greedy chain, asked in words through the model's chat template."""
        task = FreeText(chat_template=template, chain_tokens=80)
        found, seconds = self.solve("greedy, asked by chat", ChainOfThought(self.model, task=task))
        self.note(
            "greedy, asked by chat", found, [answers.extract(f"{one.work}\n{one.answer}") for one in found], seconds
        )

    def reason(self) -> None:
        """Every way that a model has which knows how steps are written."""
        task, drawn = Stories(self.worked), "vote of 3 chains"
        found, seconds = self.solve("greedy chain", ChainOfThought(self.model, task=task))
        self.note("greedy chain", found, [one.answer for one in found], seconds)

        found, seconds = self.solve(drawn, ChainOfThought(self.model, task=task, samples=3))
        self.note(drawn, found, [one.answer for one in found], seconds)
        self.note("the same, of chains whose steps compute", found, [checked_vote(task, one) for one in found], seconds)

        calculated = Calculated(self.worked)
        for way, widths in {
            "chain with a calculator, 3 drawn a step": {"max_branches": 3, "beam_width": 1},
            "search with a calculator, 6 drawn a level": {"max_branches": 3, "beam_width": 2},
        }.items():
            settings = {"temperature": 0.7, "max_depth": 3, "values": path_likelihood, **widths}
            found, seconds = self.solve(way, TreeOfThoughts(self.model, task=calculated, **settings))
            self.note(way, found, [one.answer for one in found], seconds)


def checked_vote(task: Stories, found: Solution) -> str | None:
    """The answer of most chains whose steps all compute; where there is no such chain, that of most chains."""
    chains = [thought.text for thought in found.trace.thoughts] if found.trace else []
    groups = answers.vote([task.extract(chain) for chain in chains if task.holds(found.problem, chain)])
    return groups[0].answer if groups else found.answer


def chat(model: VishwamAI) -> None:
    """Streams a reply to each of `QUESTIONS`."""
    for question in QUESTIONS:
        console.print(f"[bold cyan]{escape(question)}[/]")
        for chunk in model.stream([{"role": "user", "content": question}], max_new_tokens=48):
            console.print(escape(chunk.text), end="", soft_wrap=True)
        console.print()


def tune(model: VishwamAI, name: str, steps: int, folder: Path) -> None:
    """Trains an adapter beside the model, and makes it part of the weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made, rng = folder / "problems.jsonl", random.Random(1)
    drawn = [word_problems.problem(rng, "train") for _ in range(ROWS)]
    rows = [{"prompt": ask(text), "completion": write(text, steps)} for text, steps in drawn]
    made.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    sources = json.dumps([{"kind": "jsonl", "name": str(made)}])
    changes = [f"training.adapter.base={name}", f"training.data.tokenizer={name}", f"training.data.sources={sources}"]
    run, _ = config.load(RunConfig, ROOT / "configs/train/smollm2.json", [*changes, f"training.steps={steps}"])
    losses: list[float] = []
    console.print("  the first step is compiled now")
    with live_loss(f"step {steps}") as show:
        sinks = (show, lambda step, numbers: losses.append(numbers["loss"]))
        run = run.with_base_model(model.config)
        result = trainer.train(run, folder / "run", base=model.weights, sinks=sinks, show=False)
    console.print(f"  loss of new rows: {losses[0]:.2f} at the first step, {losses[-1]:.2f} at step {result.step}")
    adapters.save_adapter(folder / "adapter", result.weights, model.config, model.model_type, base=name)
    model.load_adapter(folder / "adapter")
    model.merge_adapter()  # weights of the same kind as before: what is compiled serves them too


def right_at_random(problems: Sequence[Problem], draws: int = 200) -> float:
    """How many problems come out right on average with steps drawn at random of those that the calculator takes."""
    task, rng, right = Calculated(), random.Random(0), 0
    for problem in problems:
        for _ in range(draws):
            state: State | None = task.read(problem.prompt)
            while state is not None and (answer := task.answer(problem.prompt, (), state)) is None:
                numbers = [*state[0], *([] if state[1] is None else [state[1]])]
                texts = [f"{a} {op} {b}" for a, b in itertools.permutations(numbers, 2) for op in OPERATIONS]
                after = {new for text in texts if (new := task.step(state, text)) is not None}
                state = rng.choice(sorted(after)) if after else None
            right += state is not None and answer == problem.answer.split()[-1]
    return right / draws


def show_ways(ways: Sequence[Way], problems: int) -> None:
    """The table of what was measured."""
    table = Table("model", "way", f"right of {problems}", "tokens a problem", "seconds")
    for way in ways:
        table.add_row(way.model, way.name, f"{way.right:.3g}", f"{way.tokens:.0f}", f"{way.seconds:.0f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="its GGUF file, or its folder")
    parser.add_argument("--sample", type=int, default=48, help="problems that are asked")
    parser.add_argument("--steps", type=int, default=14, help="of tuning")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "demo_real")
    args = parser.parse_args()
    if not args.model.exists():
        console.print(f"There is no model in {args.model}; fetch SmolLM2 with: make smollm")
        return
    begun = time.monotonic()
    problems = random.Random(0).sample(generated.held_out("word_problems"), args.sample)

    console.rule("1. SmolLM2-135M-Instruct, as it is published, chats")
    # Layers in stacks: they serve the trainer too, and compile sooner.
    model = VishwamAI.from_pretrained(args.model, dtype="float32", scan_layers=True)
    chat(model)

    console.rule(f"2. It is asked {args.sample} word problems, in several ways")
    ways = [Way("none", "steps at random with a calculator", right_at_random(problems), 0.0, 0.0)]
    sizes = {
        "rows": 2 * max(args.sample, 8),
        "tile": min(args.sample, 48),
    }  # all prompts of a greedy chain are one batch
    asked = Reasoner("published", Local(model, context=368, **sizes), worked_problems(), problems, ways)
    asked.by_chat(dict(model.tokenizer.settings.templates)["default"])
    asked.reason()

    console.rule("3. It is tuned on problems of other templates and other calculations, and asked the same")
    tune(model, str(args.model), args.steps, args.output)
    Reasoner("tuned", Local(model, context=176, **sizes), (), problems, ways).reason()

    console.rule("4. What was measured")
    show_ways(ways, args.sample)
    console.print(f"all of it took {time.monotonic() - begun:.0f} seconds")


if __name__ == "__main__":
    main()
