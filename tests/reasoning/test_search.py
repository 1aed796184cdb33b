"""Ways through a tree against references of their own, written from the definitions, on trees made up by chance.

The references know the roads and the values, and nothing of `Tree`; compared is where thoughts were asked for.
"""

import dataclasses
import heapq
import math
import random

import pytest

from vishwamai.errors import InputError
from vishwamai.reasoning import drive
from vishwamai.reasoning.model import Completion, join_prompt, seed_of
from vishwamai.reasoning.proposals import sampled
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.search import MIN_VALUE, SEARCHES, TreeSettings
from vishwamai.reasoning.tree import TreeOfThoughts
from vishwamai.reasoning.values import program

CASES = 150
ANSWERS = {"right": 1.0, "maybe": 0.5, "refuted": 0.0}


def solver(task, search, **settings):
    values = program(task.worth)
    return TreeOfThoughts(task.model, search=search, task=task, proposals=sampled(0.7), values=values, **settings)


class Known:
    """What a reference knows of a land: draws go on where they were left, and a place is new once."""

    def __init__(self, task):
        self.task, self.seen, self.drawn, self.solved = task, {"start"}, {}, False
        self.visited = []

    def value(self, place):
        return ANSWERS[place.split()[0]] if " " in place else self.task.worth("x", place)

    def new(self, place, k):
        """The new places after k thoughts at a place."""
        self.visited.append(place)
        begin = self.drawn.get(place, 0)
        self.drawn[place] = begin + k
        found = []
        for text in self.task.roads("x", place)[begin : begin + k]:
            if text != "wrong way" and text not in self.seen:
                self.seen.add(text)
                found.append(text)
                self.solved |= text.startswith("right")
        return found


def depth_first(known, k, depth, b, expansions, threshold):
    def visit(place, level):
        if level >= depth or len(known.visited) >= expansions or known.solved:
            return
        new = [z for z in known.new(place, k) if " " not in z]
        for z in sorted(new, key=known.value, reverse=True):  # which keeps the order of equals too
            if not known.solved and known.value(z) >= threshold:
                visit(z, level + 1)

    visit("start", 0)


def best_first(known, k, depth, b, expansions, threshold):
    heap, made, done = [(0, 0, 0, "start")], 0, 0
    while heap and done < expansions and not known.solved:
        now = [heapq.heappop(heap) for _ in range(min(b, expansions - done, len(heap)))]
        done += len(now)
        new = [(z, -level + 1) for _, level, _, place in now for z in known.new(place, k)]
        for z, level in new:
            if " " not in z and level < depth:
                made += 1
                heapq.heappush(heap, (-known.value(z), -level, made, z))


def mcts(known, k, depth, b, expansions, threshold):
    n, w, after, above, level, closed = {"start": 0}, {"start": 0}, {"start": []}, {}, {"start": 0}, set()

    def back(place, value):
        n[place], w[place] = n[place] + 1, w[place] + value
        if place in above:
            back(above[place], value)

    def uct(place):
        return w[place] / n[place] + math.sqrt(math.log(n[above[place]]) / n[place])

    for _ in range(expansions):
        if "start" in closed or known.solved:
            return
        place = "start"
        while set(after[place]) - closed:
            place = max((z for z in after[place] if z not in closed), key=uct)
        new = known.new(place, k)
        for z in new:
            n[z], w[z], after[z], above[z], level[z] = 0, 0, [], place, level[place] + 1
            after[place].append(z)
        for z in new:
            back(z, known.value(z))
            if " " in z or level[z] == depth:
                closed.add(z)
        if not new:
            closed.add(place)
            back(place, 0)


def beam(known, k, depth, b, expansions, threshold):
    frontier = [("start", 0)]
    for _ in range(depth):
        new = [(z, so_far + known.task.logprob("x", s, z)) for s, so_far in frontier for z in known.new(s, k)]
        if known.solved:
            return
        ways = [(z, logprob) for z, logprob in new if " " not in z]
        ways.sort(key=lambda way: way[1] + math.log(max(known.value(way[0]), MIN_VALUE)), reverse=True)
        frontier = ways[:b]
        if not frontier:
            return


REFERENCES = {"depth": depth_first, "best_first": best_first, "mcts": mcts, "beam": beam}


@pytest.mark.parametrize("name", REFERENCES)
def test_thoughts_are_asked_for_where_the_definition_says(name, land):
    lengths = set()
    for case in range(CASES):
        rng = random.Random(case)
        k, depth, b, expansions = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 20)
        threshold = rng.choice([0.0, 0.25, 0.5, 0.6])
        task, known = land(seed=case), Known(land(seed=case))
        settings = {"max_branches": k, "max_depth": depth, "beam_width": b, "expansions": expansions}
        made = solver(task, name, **settings, threshold=threshold, even=False).solve("x")
        REFERENCES[name](known, k, depth, b, expansions, threshold)
        assert sum(task.visited(), []) == known.visited, case
        assert made.stopped is None and (made.verified is True) == known.solved, case
        lengths.add(len(known.visited))
    assert len(lengths) > 8


def test_upper_confidence_bounds_by_hand(land):
    roads = {"start": ["a", "b"], "a": ["c", "d"], "c": ["e", "maybe 1"]}
    worth = {"a": 0.6, "b": 0.5, "c": 0.1, "d": 0.1, "e": 0.1}

    def after(expansions):
        task = land(roads, worth)
        mine = solver(task, "mcts", max_branches=2, max_depth=3, expansions=expansions)
        tree = mine.tree("x")
        drive.run(task.model, [SEARCHES["mcts"](tree, mine.settings)])
        grown = [node for node in tree.nodes.values() if node.steps]
        return {node.thought.text: (node.visits, round(node.value_sum, 4)) for node in grown}, task.visited()

    # a: 0.6 + sqrt(ln 2 / 1), b: 0.5 + sqrt(ln 2 / 1), so on from a.
    assert after(1)[0] == {"a": (1, 0.6), "b": (1, 0.5)}
    # a: 0.8 / 3 + sqrt(ln 4 / 3) = 0.946, b: 0.5 + sqrt(ln 4) = 1.677, so on from b, where nothing is new: closed.
    assert after(2)[0] == {"a": (3, 0.8), "b": (1, 0.5), "c": (1, 0.1), "d": (1, 0.1)}
    # Under a, which alone is open, c and d are equal, and c is the first.
    assert after(3)[0]["b"] == (2, 0.5)
    # Both that follow c are closed: e is at the greatest depth, the other is an answer.
    four = {"a": (5, 1.4), "b": (2, 0.5), "c": (3, 0.7), "d": (1, 0.1), "e": (1, 0.1), "maybe 1": (1, 0.5)}
    assert after(4)[0] == four
    # c: 0.7 / 3 + sqrt(ln 5 / 3) = 0.966, d: 0.1 + sqrt(ln 5) = 1.369. d leads nowhere, nor do c, a, start, once more.
    visited = ["start", "a", "b", "c", "d", "c", "a", "start"]
    assert after(99)[1] == [[place] for place in visited]


def test_mcts_ends_when_all_is_closed(land):
    task = land({"start": ["a"], "a": ["maybe 1"]}, {"a": 1.0})
    made = solver(task, "mcts", max_branches=2, expansions=100).solve("x")
    assert task.visited() == [["start"], ["a"], ["a"], ["start"]] and (made.answer, made.complete) == ("maybe 1", True)


def test_mcts_explores_as_much_as_it_is_told(land):
    roads = {"start": ["a", "b"], "a": ["c", "d"], "c": ["e"], "d": ["f"]}
    worth = {"a": 0.6, "b": 0.5, "c": 0.55, "d": 0.5, "e": 0.5, "f": 0.5}
    last = {}
    for exploration in (0.0, 1.0):
        task = land(roads, worth)
        solver(task, "mcts", max_branches=2, max_depth=4, expansions=3, exploration=exploration).solve("x")
        last[exploration] = task.visited()[-1]
    assert last == {0.0: ["c"], 1.0: ["b"]}


def test_depth_first_goes_on_from_the_best_and_turns_back(land):
    roads = {"start": ["a", "b", "c"], "b": ["d", "e"], "e": ["g"], "d": ["f"], "c": ["right 1"]}
    worth = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.5, "e": 0.5, "f": 0.9, "g": 0.2}
    task = land(roads, worth)
    made = solver(task, "depth", max_depth=3, threshold=0.3).solve("x")
    assert task.visited() == [["start"], ["b"], ["d"], ["e"], ["c"]]
    status = {thought.text: thought.status for thought in made.trace.thoughts}
    assert (status["a"], status["g"], status["f"]) == ("pruned", "pruned", "kept") and made.answer == "right 1"


def test_later_rounds_go_on_with_what_is_known(land):
    roads = {"start": ["a", "b", "c", "d", "e", "g"], "a": ["aa", "ab", "ac", "ad"], "b": ["ba", "bb"]}
    worth = {"a": 0.9, "b": 0.8, "c": 0.3, "d": 0.2, "e": 0.1, "g": 0.1, "aa": 0.5}
    worth |= {"ab": 0.4, "ac": 1.0, "ad": 0.0, "ba": 0.6, "bb": 0.0}
    task = land(roads, worth)
    made = solver(task, "breadth", max_branches=2, max_depth=3, beam_width=1, even=False, rounds=3).solve("x")
    # a counts 0.4 after its round, so b is next; then b counts 0.3, a 0.4 again. Below, aa counts 0 after it.
    rounds = [["start", "a", "aa"], ["start", "b", "ba"], ["start", "a", "ac"]]
    assert task.visited() == [[place] for places in rounds for place in places]
    tried = [(t.path, t.text) for t in made.trace.thoughts if t.path[:1] == (0,)]
    assert [path for path, text in tried if text in worth] == [(0,), (0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("name", SEARCHES)
def test_no_state_is_gone_on_from_twice_in_a_pass(name, land):
    most = 0
    for case in range(60):
        task = land(seed=case)
        solver(task, name, max_branches=3, max_depth=4, beam_width=3, stop_early=False, rounds=2).solve("x")
        visited = sum(task.visited(), [])
        passes = "".join(",*" if place == "start" else f",{place}" for place in visited).split(",*")[1:]
        if name != "mcts":  # which draws again where all that follows is closed
            for places in passes:
                assert len(set(places.split(","))) == len(places.split(",")), case
        assert name == "breadth" or name == "mcts" or len(passes) == 1
        most = max(most, len(visited))
    assert most > 8


@pytest.mark.parametrize("width, parts", [(w, p) for w in range(1, 16) for p in range(1, 8)])
def test_a_level_is_spread_evenly(width, parts):
    found = TreeSettings(max_branches=width, beam_width=1).thoughts_of_level(parts)
    assert len(found) == parts and sum(found) == width
    assert max(found) - min(found) <= 1 and found == sorted(found, reverse=True)


@pytest.mark.parametrize("name", ["breadth", "beam"])
@pytest.mark.parametrize("even, first, second", [(True, 8, [3, 3, 2]), (False, 2, [2, 2])])
def test_the_thoughts_of_a_level(name, even, first, second, land):
    roads = {"start": ["a", "b", "c"], "a": ["d"], "b": ["e"], "c": ["f"]}
    task = land(roads, dict.fromkeys("abcdef", 0.5))
    made = solver(task, name, max_branches=2, beam_width=4, max_depth=2, even=even).solve("x")
    counts = {}
    for thought in made.trace.thoughts[1:]:
        counts[thought.path[:-1]] = counts.get(thought.path[:-1], 0) + 1
    assert counts.pop(()) == first and sorted(counts.values(), reverse=True) == second


@pytest.mark.parametrize("name", SEARCHES)
def test_it_stops_early_or_not(name, land):
    roads = {"start": ["right 1", "a"], "a": ["right 2"]}
    found = {}
    for stop_early in (True, False):
        task = land(roads, {"a": 0.5})
        made = solver(task, name, max_branches=2, stop_early=stop_early).solve("x")
        found[stop_early] = (made.answer, made.candidates)
    assert found == {True: ("right 1", ("right 1",)), False: ("right 1", ("right 1", "right 2"))}


class Drawn(Scripted):
    """Draws a road by prompt and seed alone, as a model does."""

    def __init__(self, task):
        super().__init__({})
        self.task = task

    def generate(self, prompts, n, sampling, seeds, *, deadline=None):
        self.asked.append([join_prompt(prompt) for prompt in prompts])
        rows = zip(self.asked[-1], n, seeds, strict=True)
        return [[self.road(text, seed_of(seed, j)) for j in range(many)] for text, many, seed in rows]

    def road(self, text, seed):
        rng, (problem, place) = random.Random(seed), self.task.at(text)
        text = rng.choice([*self.task.roads(problem, place), "wrong way"])
        return Completion(text=text, tokens=len(text.split()), logprob=-rng.random())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_problem_grows_the_same_tree_in_any_company(name, land):
    problems = ["one", "two", "three", "four", "five", "six", "one"]
    made, calls = {}, {}
    for company in (1, 3, 7):
        task = land(seed=5)
        how = {"values": program(task.worth), "proposals": sampled(1.0), "stop_early": False}
        mine = TreeOfThoughts(Drawn(task), search=name, task=task, max_depth=4, seed=3, rounds=2, **how)
        parts = [problems[at : at + company] for at in range(0, len(problems), company)]
        made[company] = [bare(one) for part in parts for one in mine.solve_all(part)]
        calls[company] = len(mine.model.asked)
    assert made[1] == made[3] == made[7] and made[1][0] == made[1][6]
    assert len({str(one["thoughts"]) for one in made[1]}) == 6
    assert calls[1] == sum(one["calls"] for one in made[1]) and calls[7] == max(one["calls"] for one in made[7])


def bare(solution):
    """All that a search did, without its seconds."""
    thoughts = [dataclasses.replace(thought, seconds=0) for thought in solution.trace.thoughts]
    result = {name: value for name, value in solution.trace.result.items() if name != "seconds"}
    return {"thoughts": thoughts, "steps": solution.steps, **result}


WRONG = [{"max_branches": 0}, {"max_depth": 0}, {"beam_width": -1}, {"rounds": 0}, {"expansions": 1.5}]
WRONG += [{"threshold": -0.1}, {"threshold": 1.5}, {"threshold": math.nan}, {"exploration": math.inf}]
WRONG += [{"temperature": True}, {"max_branches": True}, {"max_depth": "3"}]


@pytest.mark.parametrize("setting", WRONG, ids=str)
def test_settings_out_of_range_are_refused(setting, land):
    with pytest.raises(InputError, match=f"^{next(iter(setting))} is .* it must be a"):
        TreeOfThoughts(Scripted({}), task=land(), **setting)


def test_a_level_without_bounds_is_refused(land):
    with pytest.raises(InputError, match="max_branches times beam_width is 3000000000; a level has at most 65536"):
        TreeOfThoughts(Scripted({}), beam_width=10**9)
    with pytest.raises(
        InputError, match="there is no search 'astar'; there are breadth, depth, beam, best_first, mcts"
    ):
        TreeOfThoughts(Scripted({}), search="astar")
