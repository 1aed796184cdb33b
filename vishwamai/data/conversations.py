"""Conversations of two to ten turns, in which later questions need what was said before.

A person tells their name, where they live, what they like or how many things they have, asks for explanations and
sums, and comes back to any of it: "What is my name?", "Shorter, please.", "And a layer?", "Now add 7." A system line
gives the assistant a name, names the person, or asks for short answers. Every value is copied from the conversation,
and half of the names are made up, so that copying is learnt and not a list of names. Held-out rows have names, places
and likings that no training row has.

It knows no tokens and no template.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vishwamai.data import arithmetic, explanations, game24, phrases, word_problems
from vishwamai.data.chats import PLAIN_SYSTEM, Reply, chat_spans
from vishwamai.data.rows import Problem, Row

ASSISTANT = "VishwamAI"
MAX_TURNS = 10
MAX_EXPLANATIONS = 2  # in one conversation: each takes about a fifth of the context
HELD_OUT_ONE_IN = 8
N_HELD_OUT = 60  # problems of each kind
CARELESS = 0.2  # the share of questions without their last sign, and of those without a capital
PROBLEMS = (game24, word_problems)
SYSTEM = 0.4  # the share of conversations that begin with a system line


@dataclass
class State:
    """What a conversation has established so far, and the turns that did; it is filled turn by turn."""

    rng: random.Random
    split: str
    system: str = ""
    assistant: str = ASSISTANT
    is_brief: bool = False
    name: str | None = None
    city: str | None = None
    word: str | None = None
    likings: dict[str, str] = field(default_factory=dict)
    things: tuple[int, str] | None = None
    result: int | None = None
    terms: list[str] = field(default_factory=list)
    has_problem: bool = False
    shown: str = ""  # how the last term was explained: "", "short" or "whole"
    turns: list[tuple[str, Reply]] = field(default_factory=list)

    def draw(self, known: Sequence[str]) -> str:
        """A value of this state's split: one of `known`, or half of the time a made-up name."""
        while True:
            value = self.rng.choice(known) if self.rng.random() < 0.5 else invent_name(self.rng)
            if is_held_out(value) == (self.split == "held_out"):
                return value


def is_held_out(value: str) -> bool:
    """Whether a name, place or liking is left out of training."""
    return zlib.crc32(f"talk {value}".encode()) % HELD_OUT_ONE_IN == 0


def invent_name(rng: random.Random) -> str:
    """A name that nobody has, of one to four syllables."""
    syllables = rng.choices((1, 2, 3, 4), (1, 4, 3, 1))[0]
    parts = (
        rng.choice(phrases.ONSETS) + rng.choice(phrases.VOWELS) + rng.choice(phrases.CODAS) for _ in range(syllables)
    )
    return "".join(parts).capitalize()


# Turns: each adds what a person says and the reply, or returns False where the conversation does not allow it.


def _say(state: State, question: str, reply: Reply) -> bool:
    """Adds a turn. People leave out the last sign, or begin with a small letter, now and then."""
    if state.rng.random() < CARELESS:
        question = question.rstrip(".?!")
    if state.rng.random() < CARELESS:
        question = question[0].lower() + question[1:]
    state.turns.append((question, reply))
    return True


def tell_name(state: State) -> bool:
    """The person says their name."""
    if state.name is not None:
        return False
    state.name = state.draw(phrases.NAMES)
    return _say(state, state.rng.choice(phrases.TELL_NAME).format(state.name), f"Hello, {state.name}!")


def ask_name(state: State) -> bool:
    """The person asks for their own name."""
    reply = "You have not told me your name." if state.name is None else f"Your name is {state.name}."
    if state.name is None and state.rng.random() < 0.7:
        return False
    return _say(state, state.rng.choice(phrases.ASK_NAME), reply)


def ask_assistant(state: State) -> bool:
    """The person asks for the assistant's name."""
    return _say(state, state.rng.choice(phrases.ASK_ASSISTANT), f"My name is {state.assistant}.")


def tell_word(state: State) -> bool:
    """The person gives a word to remember."""
    if state.word is not None:
        return False
    state.word = state.draw(phrases.NAMES).lower()
    return _say(state, state.rng.choice(phrases.TELL_WORD).format(state.word), "I will remember it.")


def ask_word(state: State) -> bool:
    """The person asks for the word."""
    return state.word is not None and _say(state, state.rng.choice(phrases.ASK_WORD), f"The word was {state.word}.")


def ask_repeat(state: State) -> bool:
    """The person has one to three words repeated."""
    words = " ".join(state.draw(phrases.NAMES) for _ in range(state.rng.randint(1, 3)))
    return _say(state, state.rng.choice(phrases.REPEAT).format(words), f"{words}.")


def ask_problem(state: State) -> bool:
    """The person asks a question of another corpus, once in a conversation."""
    if state.has_problem:
        return False
    state.has_problem = True
    found = state.rng.choice(PROBLEMS).row(state.rng)
    (first, weight), *rest = found.text_spans[1:]
    return _say(state, found.prompt, ((first.removeprefix("\n "), weight), *rest))


def tell_city(state: State) -> bool:
    """The person says where they live."""
    if state.city is not None:
        return False
    state.city = state.draw(phrases.CITIES)
    return _say(state, state.rng.choice(phrases.TELL_CITY).format(state.city), f"You live in {state.city}.")


def ask_city(state: State) -> bool:
    """The person asks where they live."""
    return state.city is not None and _say(state, state.rng.choice(phrases.ASK_CITY), f"You live in {state.city}.")


def tell_liking(state: State) -> bool:
    """The person names a favourite color, animal, food, city or book."""
    kind = state.rng.choice(list(phrases.LIKINGS))
    if kind in state.likings:
        return False
    value = state.likings[kind] = state.draw(phrases.LIKINGS[kind]).lower()
    return _say(state, state.rng.choice(phrases.TELL_LIKING).format(kind, value), f"Your favorite {kind} is {value}.")


def ask_liking(state: State) -> bool:
    """The person asks for one of their favourites."""
    if not state.likings:
        return False
    kind = state.rng.choice(list(state.likings))
    question = state.rng.choice(phrases.ASK_LIKING).format(kind)
    return _say(state, question, f"Your favorite {kind} is {state.likings[kind]}.")


def ask_explanation(state: State) -> bool:
    """The person asks for a term; after another term sometimes with `And …?` alone."""
    if len(state.terms) >= MAX_EXPLANATIONS:
        return False
    term = state.rng.choice([term for term in explanations.explanations() if term not in state.terms])
    kept_back = explanations.held_out_phrasing(term)
    phrasing = state.rng.choice([p for p in explanations.PHRASINGS if p != kept_back])
    if state.shown and state.rng.random() < 0.6:
        phrasing = state.rng.choice(phrases.ALSO).replace("{}", "{term}")
    state.terms.append(term)
    state.shown = "short" if state.is_brief else "whole"
    return _say(
        state, phrasing.format(term=term), _parts(term)[0] if state.is_brief else explanations.explanations()[term]
    )


def ask_shorter(state: State) -> bool:
    """The person asks for the first sentence of what was explained, or for the rest of it."""
    if not state.shown:
        return False
    first, rest = _parts(state.terms[-1])
    if state.shown == "whole":
        state.shown = "short"
        return _say(state, state.rng.choice(phrases.SHORTER), first)
    state.shown = "whole"
    return _say(state, state.rng.choice(phrases.MORE), rest)


def ask_topic(state: State) -> bool:
    """The person asks what they asked about, last or first."""
    if not state.terms:
        return False
    if len(state.terms) > 1 and state.rng.random() < 0.5:
        return _say(state, state.rng.choice(phrases.ASK_FIRST), f"You asked about {state.terms[0]}.")
    return _say(state, state.rng.choice(phrases.ASK_TOPIC), f"You asked about {state.terms[-1]}.")


def tell_things(state: State) -> bool:
    """The person says how many of some thing they have, or that they get more or fewer."""
    if state.things is None:
        state.things = state.rng.randint(2, 60), state.rng.choice(word_problems.THINGS)
        return _say(
            state, state.rng.choice(phrases.TELL_THINGS).format(*state.things), "You have {} {}.".format(*state.things)
        )
    n, things = state.things
    op, number = state.rng.choice("+-"), state.rng.randint(2, 40)
    result = _result(n, op, number)
    if result is None:
        return False
    state.things = result, things
    worked = arithmetic.write_steps(n, op, number, result)
    return _say(state, state.rng.choice(phrases.CHANGES[op]).format(number), f"{worked}\n You have {result} {things}.")


def ask_things(state: State) -> bool:
    """The person asks how many they have."""
    if state.things is None:
        return False
    n, things = state.things
    return _say(state, state.rng.choice(phrases.ASK_THINGS).format(things), f"You have {n} {things}.")


def ask_sum(state: State) -> bool:
    """The person asks for a sum, or goes on with the result of the last one."""
    if state.result is None:
        x, op, y = state.rng.randint(1, 60), state.rng.choice("+-*"), state.rng.randint(1, 40)
        y = y % 9 + 2 if op == "*" else y
        question = state.rng.choice(phrases.SUM).format(x, op, y)
    else:
        x, op = state.result, state.rng.choice("+-*")
        y = state.rng.randint(2, 10) if op == "*" else state.rng.randint(1, 40)
        question = state.rng.choice(phrases.NEXT_SUM[op]).format(y)
    result = _result(x, op, y)
    if result is None:
        return False
    state.result = result
    return _say(state, question, f"{arithmetic.write_steps(x, op, y, result)}\n Answer: {result}")


def greet(state: State) -> bool:
    """The person says hello, thanks or goodbye."""
    address = "" if state.name is None else f", {state.name}"
    if not state.turns or state.rng.random() < 0.3:
        return _say(state, state.rng.choice(phrases.HELLO), f"Hello{address}! How can I help you?")
    if state.rng.random() < 0.5:
        return _say(state, state.rng.choice(phrases.THANKS), f"You are welcome{address}!")
    return _say(state, state.rng.choice(phrases.GOODBYE), f"Goodbye{address}!")


TURNS: dict[Callable[[State], bool], int] = {  # how often each is tried
    tell_name: 8,
    ask_name: 8,
    tell_word: 4,
    ask_word: 6,
    ask_repeat: 4,
    ask_problem: 2,
    ask_assistant: 2,
    tell_city: 4,
    ask_city: 5,
    tell_liking: 4,
    ask_liking: 4,
    ask_explanation: 6,
    ask_shorter: 6,
    ask_topic: 6,
    tell_things: 6,
    ask_things: 4,
    ask_sum: 6,
    greet: 2,
}


def _result(x: int, op: str, y: int) -> int | None:
    """The result of a sum; None where it leaves 1..100 or is held out."""
    result = {"+": x + y, "-": x - y, "*": x * y}[op]
    if not 1 <= result <= word_problems.MAX_RESULT:
        return None
    step = word_problems.StoryStep(x, op, y, result)
    return None if word_problems.is_held_out_step(step) else result


def _parts(term: str) -> tuple[str, str]:
    """The first sentence of an explanation, and the others."""
    first, _, rest = explanations.explanations()[term].partition(". ")
    return f"{first}.", rest


def _begin(state: State) -> None:
    """Draws the system line, and what it establishes."""
    if state.rng.random() >= SYSTEM:
        return
    lines = []
    if state.rng.random() < 0.5:
        state.assistant = state.draw(phrases.NAMES)
        lines.append(
            state.rng.choice(("You are {}.", "Your name is {}.", "You are called {}.")).format(state.assistant)
        )
    if state.rng.random() < 0.4:
        state.is_brief = True
        lines.append(state.rng.choice(("Answer in one sentence.", "Be brief.", "Keep your answers short.")))
    if state.rng.random() < 0.3:
        state.name = state.draw(phrases.NAMES)
        lines.append(state.rng.choice(("The user is called {}.", "You are talking with {}.")).format(state.name))
    state.rng.shuffle(lines)
    state.system = " ".join(lines) or PLAIN_SYSTEM


def draw_conversation(rng: random.Random, split: str, last: Callable[[State], bool] | None = None) -> State:
    """A conversation; its last turn is `last`, where one is given."""
    while True:
        state = State(rng, split)
        _begin(state)
        wanted = rng.randint(2, MAX_TURNS)
        while len(state.turns) < wanted - (last is not None):
            rng.choices(list(TURNS), list(TURNS.values()))[0](state)
        if last is None or last(state):
            return state


def row(rng: random.Random, split: str = "train") -> Row:
    """A random conversation; the replies are in the loss."""
    state = draw_conversation(rng, split)
    return Row(chat_spans([*_system(state.system), *_messages(state.turns)]))


def held_out() -> list[Problem]:
    """Conversations that end in a question about what was said before; kinds `conversations.ask_name` and so on."""
    rng = random.Random("held-out conversations")
    kinds = (ask_name, ask_assistant, ask_city, ask_word, ask_liking, ask_things, ask_topic, ask_shorter)
    return [
        _problem(draw_conversation(rng, "held_out", kind), kind.__name__) for kind in kinds for _ in range(N_HELD_OUT)
    ]


def _problem(state: State, kind: str) -> Problem:
    reply = state.turns[-1][1]
    spans = chat_spans([*_system(state.system), *_messages(state.turns)])
    assert isinstance(reply, str)
    prompt = "".join(text for text, _ in spans[:-1])
    return Problem(prompt, lambda completion: completion.strip() == reply, f"conversations.{kind}", reply)


def _system(text: str) -> list[tuple[str, Reply]]:
    return [("system", text)] if text else []


def _messages(turns: Sequence[tuple[str, Reply]]) -> list[tuple[str, Reply]]:
    return [message for question, reply in turns for message in (("user", question), ("assistant", reply))]
