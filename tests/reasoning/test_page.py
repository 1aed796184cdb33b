"""The page of search trees: one file, nothing from outside, no word of a model as markup, and a script that runs."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from vishwamai.data import game24
from vishwamai.errors import InputError
from vishwamai.reasoning import page
from vishwamai.reasoning.trace import STATUSES, Thought, Trace, load_trace

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&amp;\u2028\u2029\ud800"
OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
STUB = Path(__file__).parent / "page_dom.js"


def game_of_24(numbers=(4, 9, 10, 13), *, wide=12, keep=3, seed=0) -> Trace:
    """A made-up breadth-first search of three levels: right and wrong steps, repeats, values that know the truth."""
    draw, trace = random.Random(seed), Trace(game24.prompt(numbers), "tree")
    trace.add(Thought((), "", state=numbers, status="expanded"))
    level, seen, clock = [((), tuple(sorted(numbers)))], set(), 0.0
    for depth in (1, 2, 3):
        places = []
        for path, left in level:
            clock += 0.2
            for i in range(wide):
                a, b, *rest = draw.sample(left, len(left))
                sign = draw.choice(list(OPERATORS))
                made = OPERATORS[sign](a, b)
                state = tuple(sorted([made, *rest]))
                thought = Thought((*path, i), f"{a} {sign} {b} = {made}", state=" ".join(map(str, state)))
                thought.tokens, thought.logprob, thought.seconds = draw.randint(9, 14), -draw.random() * 6, clock
                trace.add(thought)
                if made < 0 or draw.random() < 0.15:
                    thought.status, thought.why = "wrong", f"{a} {sign} {b} is not {made + 1}"
                elif state in seen:
                    thought.status, thought.why = "repeat", "these numbers stand elsewhere"
                else:
                    seen.add(state)
                    thought.value = 0.9 if game24.solvable(state) else round(draw.random() * 0.5, 3)
                    thought.status = "pruned" if depth < 3 else "answer" if state == (24,) else "refuted"
                    places.append((thought, state))
        level = sorted(places, key=lambda found: -found[0].value)[:keep]
        for thought, _ in level if depth < 3 else ():
            thought.status = "expanded"
        level = [(thought.path, state) for thought, state in level]
    found = next((t for t in trace.thoughts if t.status == "answer"), None)
    trace.result = {"method": "tree", "tokens": sum(t.tokens for t in trace.thoughts), "calls": 7, "seconds": clock}
    if found:
        trace.result |= {"path": found.path, "answer": "(10 - 4) * (13 - 9)", "verified": True}
    return trace


def large(many=10_000) -> Trace:
    """A search of ten thousand thoughts, a hundred of each of a hundred."""
    trace = Trace("a large one", "tree", [Thought((), "", status="expanded")])
    for i in range(many):
        path = (i % 100,) if i < 100 else (i % 100, i // 100 - 1)
        thought = Thought(path, f"13 * {i} - 9 = {13 * i - 9}", state=f"4 9 10 {i}", value=i / many, tokens=12)
        thought.status, thought.logprob, thought.seconds = STATUSES[i % 8], -1.25 - i, i / 1000
        trace.add(thought)
    return trace


class Reader(HTMLParser):
    """The elements of a page and the text of those whose text is not markup, as a browser sees them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.comments = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.lasttag in ("script", "style"):
            name = dict(self.elements[-1][1]).get("id", self.lasttag)
            self.texts[name] = self.texts.get(name, "") + data

    def handle_comment(self, data):
        self.comments.append(data)


def written(tmp_path, traces) -> str:
    page.write_page(traces, tmp_path / "tree.html")
    return (tmp_path / "tree.html").read_text(encoding="utf-8")


def as_trace(entry: dict) -> Trace:
    """An embedded trace as a trace, its result's path as it was."""
    thoughts = [Thought(**{**thought, "path": tuple(thought["path"])}) for thought in entry["thoughts"]]
    return Trace(entry["problem"], entry["method"], thoughts, entry["result"])


def test_the_page_holds_exactly_the_traces(tmp_path):
    traces = [game_of_24(), game_of_24((1, 2, 7, 7), seed=3), Trace("", "direct")]
    got = [as_trace(entry) for entry in json.loads(Reader(written(tmp_path, traces)).texts["data"])]
    for i, trace in enumerate(traces):
        trace.save(tmp_path / f"{i}.jsonl")
    assert got == [load_trace(tmp_path / f"{i}.jsonl") for i in range(3)]
    assert {thought.status for thought in got[0].thoughts} >= {"expanded", "wrong", "repeat", "pruned", "answer"}


def test_one_trace_is_a_list_of_one_and_none_is_refused(tmp_path):
    assert written(tmp_path, game_of_24()) == written(tmp_path, [game_of_24()])
    with pytest.raises(InputError, match="no trace to show"):
        page.write_page([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_numbers_that_json_has_not_become_their_names(tmp_path):
    trace = Trace("p", "m", [Thought((0,), "t", logprob=float("-inf"), value=float("nan"))], {"seconds": float("inf")})
    [entry] = json.loads(Reader(written(tmp_path, trace)).texts["data"], parse_constant=pytest.fail)
    assert entry["result"] == {"seconds": "inf"}
    assert entry["thoughts"] == [{"path": [0], "text": "t", "logprob": "-inf", "value": "nan"}]


def test_hostile_words_stay_words(tmp_path):
    trace = Trace(HOSTILE, HOSTILE, [Thought((), HOSTILE, state=HOSTILE, why=HOSTILE)], {"answer": HOSTILE})
    plain, hostile = Reader(written(tmp_path, game_of_24())), Reader(written(tmp_path, trace))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert hostile.comments == plain.comments == []
    assert [as_trace(entry) for entry in json.loads(hostile.texts["data"])] == [trace]
    assert not re.search("[<>&\u2028\u2029]", hostile.texts["data"])


def test_placeholders_in_a_thought_stay_words(tmp_path):
    trace = Trace("__DATA__ __POLICY__ __SCRIPT__", "m", [Thought((0,), "__DATA__")])
    assert [as_trace(entry) for entry in json.loads(Reader(written(tmp_path, trace)).texts["data"])] == [trace]


def test_nothing_comes_from_outside(tmp_path):
    text = written(tmp_path, game_of_24())
    assert set(re.findall(r"\w+://[^\"'\s]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"@import|url\(|@font-face|\bfetch\(|XMLHttp|WebSocket|import\(|innerHTML|insertAdj|eval\(", text
    )
    assert not [(tag, a) for tag, a in Reader(text).elements if {"src", "href", "style"} & set(a) or tag == "link"]
    assert not [name for _, a in Reader(text).elements for name in a if name.startswith("on")]


def test_the_policy_lets_only_the_pages_own_script_and_style_run(tmp_path):
    text = written(tmp_path, game_of_24())
    [policy] = [a["content"] for _, a in Reader(text).elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and set(rules) - {"default-src", "base-uri", "form-action"} == {
        "style-src",
        "script-src",
    }
    for tag in ("style", "script"):
        [own] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_ten_thousand_thoughts_are_a_small_file_soon_written(tmp_path):
    trace, start = large(), time.process_time()
    page.write_page(trace, tmp_path / "tree.html")
    assert time.process_time() - start < 2
    assert (tmp_path / "tree.html").stat().st_size < 5e6


def test_every_status_has_a_mark_of_its_own():
    script = resources.files("vishwamai").joinpath("assets/tree.js").read_text(encoding="utf-8")
    marks = dict(re.findall(r'^  (\w+): "(M[^"]+)",$', script, re.MULTILINE))
    assert set(marks) == set(STATUSES) and len(set(marks.values())) == len(STATUSES)


def luminance(colour: str) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines 2.1 define it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_can_be_read_in_light_and_dark(scheme):
    style = resources.files("vishwamai").joinpath("assets/tree.html").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground in ("paper", "card", "tint"):
        for ink in ("ink", "quiet", "accent", "bad"):
            dim, bright = sorted((luminance(colours[ground]), luminance(colours[ink])))
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ground, ink)


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")


def played(tmp_path, traces, moves: str):
    """What the page's script says after some moves, over a document that has as much as it uses."""
    reader = Reader(written(tmp_path, traces))
    ids = {a["id"]: tag for tag, a in reader.elements if "id" in a}
    given = {"ids": ids, "data": reader.texts["data"], "script": reader.texts["script"], "moves": moves}
    (tmp_path / "page.json").write_text(json.dumps(given), encoding="utf-8")
    run = subprocess.run(["node", STUB, tmp_path / "page.json"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_node
def test_the_script_opens_the_way_to_the_answer(tmp_path):
    trace = game_of_24()
    rows = played(tmp_path, trace, "rows()")
    path = trace.result["path"]
    way = [t.text or trace.problem for n in range(4) for t in trace.thoughts if t.path == path[:n]]
    assert [row["text"] for row in rows if row["won"]] == way
    assert [row["level"] for row in rows if row["won"]] == [1, 2, 3, 4]
    assert len(rows) == 1 + 3 * 12
    assert played(tmp_path, trace, "byId('answer').textContent") == "(10 - 4) * (13 - 9) (checked and right)"
    assert played(tmp_path, trace, "[...byId('steps').children].map((item) => item.textContent)") == way[1:]


@needs_node
def test_the_script_says_how_many_samples_agree_where_nothing_checked_the_answer(tmp_path):
    voted = {"answer": "48", "verified": None, "samples": ["48", "7", None], "agreement": 1}
    for result, words in ((voted, "1 of 3"), (voted | {"verified": True}, ""), (voted | {"samples": None}, "")):
        figures = played(tmp_path, Trace("p", "m", [], result), "byId('figures').textContent")
        assert figures.partition("samples that agree")[2] == words


@needs_node
def test_finding_shows_what_fits_and_what_it_lies_in(tmp_path):
    trace = game_of_24()
    word = trace.thoughts[-1].text
    rows = played(tmp_path, trace, f"type({json.dumps(word)}), rows()")
    hits = [t for t in trace.thoughts if word in t.text]
    above = {t.path[:n] for t in hits for n in range(len(t.path))}
    expected = [t.text or trace.problem for t in trace.thoughts if t in hits or t.path in above]
    assert sorted(row["text"] for row in rows) == sorted(expected)
    assert {row["marked"] for row in rows if row["text"] == word} == {word}
    assert len(played(tmp_path, trace, "type('x'), type(''), rows()")) == 1 + 3 * 12


@needs_node
def test_a_status_shows_only_its_thoughts(tmp_path):
    trace = game_of_24()
    rows = played(tmp_path, trace, "click(chip('answer')), rows()")
    answers = [t for t in trace.thoughts if t.status == "answer"]
    assert sum(row["status"] == "answer" for row in rows) == len(answers) > 0
    assert {row["status"] for row in rows} == {"answer", "expanded"}


@needs_node
def test_levels_add_up(tmp_path):
    trace = game_of_24()
    table = played(tmp_path, trace, "levels()")
    for row in table:
        level = [t for t in trace.thoughts if len(t.path) == row["level"]]
        assert row["thoughts"] == len(level) and row["tokens"] == sum(t.tokens for t in level)
        assert row["wrong"] == sum(t.status == "wrong" for t in level)
        assert row["repeats"] == sum(t.status == "repeat" for t in level)
        assert row["kept"] == sum(t.status in ("kept", "expanded") for t in level)
    assert [row["level"] for row in table] == [1, 2, 3]
    assert sum(row["seconds"] for row in table) == pytest.approx(trace.thoughts[-1].seconds)


@needs_node
def test_keys_move_open_and_close(tmp_path):
    trace = game_of_24()
    where = "byId('tree').children.indexOf(current.row)"
    assert played(tmp_path, trace, f"key('ArrowDown'), key('ArrowDown'), key('ArrowUp'), {where}") == 1
    assert len(played(tmp_path, trace, "key('ArrowLeft'), rows()")) == 1
    assert len(played(tmp_path, trace, "key('ArrowLeft'), key('Enter'), rows()")) == 1 + 3 * 12
    assert played(tmp_path, trace, f"key('End'), key('ArrowLeft'), {where}") == 0
    assert played(tmp_path, trace, "key('w'), current.path") == list(trace.result["path"])
    assert played(tmp_path, trace, "key('/'), document.activeElement.id") == "search"


@needs_node
def test_children_are_drawn_when_they_are_asked_for(tmp_path):
    trace = Trace("p", "best", [Thought((i,), f"answer {i}", status="answer") for i in range(10_000)])
    trace.result = {"path": (9_998,)}
    rows = played(tmp_path, trace, "rows()")
    assert [row["text"] for row in rows[-3:]] == ["answer 99", "answer 9998", "Show 100 more of 9,899"]
    rows = played(tmp_path, trace, "key('End'), key('Enter'), rows()")
    assert len(rows) == 203 and rows[-3]["text"] == "answer 199"
    assert played(tmp_path, trace, "type('answer 7777'), rows()")[-1]["text"] == "answer 7777"
    assert len(played(tmp_path, large(), "type('13'), rows()")) < 1000


@needs_node
def test_odd_traces_are_drawn(tmp_path):
    orphan = Trace("p", "m", [Thought((2, 1), "child"), Thought((2, 1), "twin"), Thought((0,), "", status="other")])
    rows = played(tmp_path, [orphan, Trace("", "m"), game_of_24()], "rows()")
    assert [row["text"] for row in rows] == ["p", "(not in the trace)", "child", "twin", "(no words)"]
    assert played(tmp_path, [orphan, game_of_24()], "show(1), rows().length") == 37
    assert len(played(tmp_path, Trace("p", "m", [], {"path": [3], "answer": None}), "rows()")) == 1


@needs_node
def test_hostile_words_are_drawn_as_words(tmp_path):
    trace = Trace("p", "m", [Thought((0,), HOSTILE, state=HOSTILE, why=HOSTILE)], {"answer": HOSTILE, "path": [0]})
    rows = played(tmp_path, trace, "type('script>'), rows()")
    assert rows[1]["text"] == HOSTILE and rows[1]["marked"] == "script>"
