"""Conversations of two to six turns, in which later questions need what was said before.

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

from vishwamai.data import arithmetic, explanations, word_problems
from vishwamai.data.chats import PLAIN_SYSTEM, chat_spans
from vishwamai.data.rows import Problem, Row

ASSISTANT = "VishwamAI"
MAX_TURNS = 6
MAX_EXPLANATIONS = 2  # in one conversation: each takes about a fifth of the context
HELD_OUT_ONE_IN = 8
N_HELD_OUT = 60  # problems of each kind
SYSTEM = 0.4  # the share of conversations that begin with a system line

NAMES = """Ada Adam Aisha Alan Alice Amir Amy Ana Anil Anna Arthur Asha Ben Bella Boris Carl Carla Chen Clara Dan Daniel
David Deepa Diana Dina Elena Ella Emil Emma Eric Eva Felix Fiona Frank George Gita Grace Hana Hanna Harry Helen Hugo Ian
Ida Igor Ines Iris Isaac Ivan Jack James Jana Jane Jin John Jonas Julia Kai Karim Kate Kim Lara Laura Lea Leo Lila Lina
Louis Lucy Luis Maria Mark Martin Mary Max Maya Meera Mia Mina Mira Nadia Nick Nina Noah Nora Olga Oliver Omar Oscar
Paul Peter Priya Raj Ravi Rita Robert Rosa Ruth Sam Sara Simon Sofia Sonia Tara Theo Thomas Tom Uma Vera Victor Yuki
Zara Zoe""".split()
CITIES = """Berlin Boston Cairo Chennai Delhi Dublin Geneva Hanoi Kyoto Lagos Lima Lisbon London Madrid Milan Mumbai
Nairobi Oslo Paris Prague Pune Quito Rome Seoul Sydney Tokyo Vienna Warsaw Zurich""".split()
LIKINGS = {
    "color": "red blue green yellow orange purple white black brown pink gold silver".split(),
    "animal": "cat dog horse owl fox bear tiger rabbit whale eagle lion frog".split(),
    "food": "rice pasta soup bread cheese apples pizza curry noodles salad beans mangoes".split(),
    "number": [str(n) for n in range(2, 60)],
}

TELL_NAME = "My name is {}.|I am {}.|I'm {}.|Call me {}.|Hi, I am {}.|Hello! My name is {}.|You can call me {}.".split(
    "|"
)
ASK_NAME = "What is my name?|What's my name?|Do you know my name?|Who am I?|Do you remember my name?".split("|")
ASK_ASSISTANT = "What is your name?|What's your name?|Who are you?|What are you called?|And your name?".split("|")
TELL_CITY = "I live in {}.|I am from {}.|My home is in {}.".split("|")
ASK_CITY = "Where do I live?|Do you know where I live?|Where am I from?|Which city do I live in?".split("|")
TELL_LIKING = "My favorite {0} is {1}.|My favourite {0} is {1}.".split("|")
ASK_LIKING = (
    "What is my favorite {}?|What's my favorite {}?|What is my favourite {}?|Do you know my favorite {}?".split("|")
)
SHORTER = (
    "Shorter, please.|In one sentence, please.|Can you say that in one sentence?|Say that in short.|In short?".split(
        "|"
    )
)
MORE = "Tell me more.|More, please.|Go on.|Can you say more?".split("|")
ASK_TOPIC = "What did I ask about?|What were we talking about?|What was my question about?".split("|")
ASK_FIRST = "What did I ask about first?|What was the first thing that I asked about?".split("|")
ALSO = "And {}?|What about {}?|And what is {}?|How about {}?".split("|")
TELL_THINGS = "I have {} {}.|I own {} {}.|There are {} {} in my bag.".split("|")
ASK_THINGS = "How many {} do I have?|How many {} do I have now?|How many {} are there?".split("|")
CHANGES = {
    "+": "I buy {} more.|I get {} more.|I find {} more.|My friend gives me {} more.".split("|"),
    "-": "I give away {}.|I lose {} of them.|I sell {} of them.|I eat {}.".split("|"),
}
SUM = "What is {0} {1} {2}?|{0} {1} {2}?|Calculate {0} {1} {2}.|How much is {0} {1} {2}?".split("|")
NEXT_SUM = {
    "+": "Now add {}.|Add {} to that.|Plus {}?|And plus {}?".split("|"),
    "-": "Now take away {}.|Subtract {} from that.|Minus {}?|And minus {}?".split("|"),
    "*": "Now multiply it by {}.|Times {}?|And times {}?".split("|"),
}
HELLO = "Hello.|Hello!|Hi.|Hi!|Hey.|Good morning.|Hi there!".split("|")
THANKS = "Thank you.|Thanks.|Thanks!|Thank you very much.".split("|")
GOODBYE = "Goodbye.|Bye.|Bye!|See you.".split("|")


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
    likings: dict[str, str] = field(default_factory=dict)
    things: tuple[int, str] | None = None
    result: int | None = None
    terms: list[str] = field(default_factory=list)
    shown: str = ""  # how the last term was explained: "", "short" or "whole"
    turns: list[tuple[str, str]] = field(default_factory=list)

    def draw(self, known: Sequence[str]) -> str:
        """A value of this state's split: one of `known`, or half of the time a made-up name."""
        while True:
            value = self.rng.choice(known) if self.rng.random() < 0.5 else made_up(self.rng)
            if is_held_out(value) == (self.split == "held_out"):
                return value


def is_held_out(value: str) -> bool:
    """Whether a name, place or liking is left out of training."""
    return zlib.crc32(f"talk {value}".encode()) % HELD_OUT_ONE_IN == 0


def made_up(rng: random.Random) -> str:
    """A name that nobody has, of two or three syllables."""
    syllables = (
        rng.choice("bdfghjklmnprstvz") + rng.choice("aeiou") + rng.choice(" nrls") for _ in range(rng.choice((2, 2, 3)))
    )
    return "".join(syllables).replace(" ", "").capitalize()


# Turns: each adds what a person says and the reply, or returns False where the conversation does not allow it.


def _say(state: State, question: str, reply: str) -> bool:
    state.turns.append((question, reply))
    return True


def tell_name(state: State) -> bool:
    """The person says their name."""
    if state.name is not None:
        return False
    state.name = state.draw(NAMES)
    return _say(state, state.rng.choice(TELL_NAME).format(state.name), f"Hello, {state.name}!")


def ask_name(state: State) -> bool:
    """The person asks for their own name."""
    reply = "You have not told me your name." if state.name is None else f"Your name is {state.name}."
    if state.name is None and state.rng.random() < 0.7:
        return False
    return _say(state, state.rng.choice(ASK_NAME), reply)


def ask_assistant(state: State) -> bool:
    """The person asks for the assistant's name."""
    return _say(state, state.rng.choice(ASK_ASSISTANT), f"My name is {state.assistant}.")


def tell_city(state: State) -> bool:
    """The person says where they live."""
    if state.city is not None:
        return False
    state.city = state.draw(CITIES)
    return _say(state, state.rng.choice(TELL_CITY).format(state.city), f"You live in {state.city}.")


def ask_city(state: State) -> bool:
    """The person asks where they live."""
    return state.city is not None and _say(state, state.rng.choice(ASK_CITY), f"You live in {state.city}.")


def tell_liking(state: State) -> bool:
    """The person names a favourite color, animal, food or number."""
    kind = state.rng.choice(list(LIKINGS))
    known = [value for value in LIKINGS[kind] if is_held_out(value) == (state.split == "held_out")]
    if kind in state.likings or not known:
        return False
    value = state.likings[kind] = state.rng.choice(known)
    return _say(state, state.rng.choice(TELL_LIKING).format(kind, value), f"Your favorite {kind} is {value}.")


def ask_liking(state: State) -> bool:
    """The person asks for one of their favourites."""
    if not state.likings:
        return False
    kind = state.rng.choice(list(state.likings))
    question = state.rng.choice(ASK_LIKING).format(kind)
    return _say(state, question, f"Your favorite {kind} is {state.likings[kind]}.")


def ask_explanation(state: State) -> bool:
    """The person asks for a term; after another term sometimes with `And …?` alone."""
    if len(state.terms) >= MAX_EXPLANATIONS:
        return False
    term = state.rng.choice([term for term in explanations.explanations() if term not in state.terms])
    kept_back = explanations.held_out_phrasing(term)
    phrasing = state.rng.choice([p for p in explanations.PHRASINGS if p != kept_back])
    if state.shown and state.rng.random() < 0.6:
        phrasing = state.rng.choice(ALSO).replace("{}", "{term}")
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
        return _say(state, state.rng.choice(SHORTER), first)
    state.shown = "whole"
    return _say(state, state.rng.choice(MORE), rest)


def ask_topic(state: State) -> bool:
    """The person asks what they asked about, last or first."""
    if not state.terms:
        return False
    if len(state.terms) > 1 and state.rng.random() < 0.5:
        return _say(state, state.rng.choice(ASK_FIRST), f"You asked about {state.terms[0]}.")
    return _say(state, state.rng.choice(ASK_TOPIC), f"You asked about {state.terms[-1]}.")


def tell_things(state: State) -> bool:
    """The person says how many of some thing they have, or that they get more or fewer."""
    if state.things is None:
        state.things = state.rng.randint(2, 60), state.rng.choice(word_problems.THINGS)
        return _say(state, state.rng.choice(TELL_THINGS).format(*state.things), "You have {} {}.".format(*state.things))
    n, things = state.things
    op, number = state.rng.choice("+-"), state.rng.randint(2, 40)
    result = _result(n, op, number)
    if result is None:
        return False
    state.things = result, things
    worked = arithmetic.worked(n, op, number, result)
    return _say(state, state.rng.choice(CHANGES[op]).format(number), f"{worked}\n You have {result} {things}.")


def ask_things(state: State) -> bool:
    """The person asks how many they have."""
    if state.things is None:
        return False
    n, things = state.things
    return _say(state, state.rng.choice(ASK_THINGS).format(things), f"You have {n} {things}.")


def ask_sum(state: State) -> bool:
    """The person asks for a sum, or goes on with the result of the last one."""
    if state.result is None:
        x, op, y = state.rng.randint(1, 60), state.rng.choice("+-*"), state.rng.randint(1, 40)
        y = y % 9 + 2 if op == "*" else y
        question = state.rng.choice(SUM).format(x, op, y)
    else:
        x, op = state.result, state.rng.choice("+-*")
        y = state.rng.randint(2, 10) if op == "*" else state.rng.randint(1, 40)
        question = state.rng.choice(NEXT_SUM[op]).format(y)
    result = _result(x, op, y)
    if result is None:
        return False
    state.result = result
    return _say(state, question, f"{arithmetic.worked(x, op, y, result)}\n Answer: {result}")


def greet(state: State) -> bool:
    """The person says hello, thanks or goodbye."""
    address = "" if state.name is None else f", {state.name}"
    if not state.turns:
        return _say(state, state.rng.choice(HELLO), f"Hello{address}! How can I help you?")
    if state.rng.random() < 0.5:
        return _say(state, state.rng.choice(THANKS), f"You are welcome{address}!")
    return _say(state, state.rng.choice(GOODBYE), f"Goodbye{address}!")


TURNS: dict[Callable[[State], bool], int] = {  # how often each is tried
    tell_name: 6,
    ask_name: 6,
    ask_assistant: 2,
    tell_city: 2,
    ask_city: 3,
    tell_liking: 4,
    ask_liking: 4,
    ask_explanation: 6,
    ask_shorter: 6,
    ask_topic: 4,
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
    step = word_problems.Step(x, op, y, result)
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
        state.assistant = state.draw(NAMES)
        lines.append(
            state.rng.choice(("You are {}.", "Your name is {}.", "You are called {}.")).format(state.assistant)
        )
    if state.rng.random() < 0.4:
        state.is_brief = True
        lines.append(state.rng.choice(("Answer in one sentence.", "Be brief.", "Keep your answers short.")))
    if state.rng.random() < 0.3:
        state.name = state.draw(NAMES)
        lines.append(state.rng.choice(("The user is called {}.", "You are talking with {}.")).format(state.name))
    state.rng.shuffle(lines)
    state.system = " ".join(lines) or PLAIN_SYSTEM


def talk(rng: random.Random, split: str, last: Callable[[State], bool] | None = None) -> State:
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
    state = talk(rng, split)
    return Row(chat_spans([*_system(state.system), *_messages(state.turns)]))


def held_out() -> list[Problem]:
    """Conversations that end in a question about what was said before; kinds `conversations.ask_name` and so on."""
    rng = random.Random("held-out conversations")
    kinds = (ask_name, ask_assistant, ask_city, ask_liking, ask_things, ask_topic, ask_shorter)
    return [_problem(talk(rng, "held_out", kind), kind.__name__) for kind in kinds for _ in range(N_HELD_OUT)]


def _problem(state: State, kind: str) -> Problem:
    reply = state.turns[-1][1]
    spans = chat_spans([*_system(state.system), *_messages(state.turns)])
    prompt = "".join(text for text, _ in spans[:-1])
    return Problem(prompt, lambda completion: completion.strip() == reply, f"conversations.{kind}", reply)


def _system(text: str) -> list[tuple[str, str]]:
    return [("system", text)] if text else []


def _messages(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [message for question, reply in turns for message in (("user", question), ("assistant", reply))]
