"""What hostile chat templates cannot do: leave the sandbox, change the messages, do or make too much.

The hostile ones are those of the CVEs against Jinja and its users (CVE-2024-34359, 2024-56326, 2025-27516, 2026-5760)
and the bombs that a sandbox alone does not stop. That good templates mean what they should is `test_dialect.py`.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sized
from typing import Any

import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text import sandbox
from vishwamai.text.sandbox import MAX_SIZE, MAX_TEMPLATE, Sandbox, render_template


def rendered(source: str, **variables: object) -> str:
    return render_template(source, variables)


def test_a_template_refuses_messages_in_its_own_words():
    with pytest.raises(InputError, match="refuses the messages: roles must alternate"):
        rendered("{{ raise_exception('roles must ' ~ 'alternate') }}")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ messages.__class__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list | first }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ ('{0.__class__.__init__.__globals__}' | attr('format'))(messages) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ ['{0.__class__}'] | map('format', messages) | first }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ namespace.__init__ }}",
    "{{ dict.__base__ }}",
    "{{ ''.join.__self__.__class__ }}",
    "{{ range.__class__ }}",
    "{{ lipsum.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends 'x' %}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ caller.__code__ }}",
    "{{ environment.filters }}",
    "{{ loop.__class__ }}",
    "{% for x in [1] %}{{ loop._iterator.__class__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out_of_the_sandbox(source):
    messages = [{"role": "user"}]
    try:
        text = rendered(source, messages=messages)
    except (TokenizerError, InputError):
        text = ""
    assert messages == [{"role": "user"}]
    assert not any(sign in text for sign in ("class", "builtin", "<function", "<code", "root:", "uid=", "0x"))


@pytest.mark.parametrize(
    "change",
    [
        "messages.append(1)",
        "messages.extend([1])",
        "messages.insert(0, 1)",
        "messages.pop()",
        "messages.remove(messages[0])",
        "messages.reverse()",
        "messages.sort()",
        "messages.clear()",
        "messages[0].update(role='system')",
        "messages[0].pop('role')",
        "messages[0].popitem()",
        "messages[0].setdefault('a', 1)",
        "messages[0].clear()",
        "dict.update(messages[0], {'role': 'system'})",
        "dict.clear(messages[0])",
        "(messages | attr('append'))(1)",
    ],
)
def test_a_template_cannot_change_what_it_is_given(change):
    messages = [{"role": "user"}]
    with pytest.raises(TokenizerError, match="the chat template failed"):
        rendered("{{ " + change + " }}", messages=messages)
    assert messages == [{"role": "user"}]


def looks(source: str, monkeypatch) -> int:
    """How many times a render looks at the clock, its start aside."""
    clock: list[int] = []
    monkeypatch.setattr(time, "thread_time", lambda: clock.append(0) or 0)
    sandbox.template_facts(source)
    clock.clear()
    rendered(source, x=list(range(50)), s="a" * 50)
    return len(clock) - 1


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("{% for i in x %}{% endfor %}", 50),
        ("{% for i in x %}{% for j in x %}{% endfor %}{% endfor %}", 50 * 51),
        ("{% for i in x %}{% if i == 9 %}{% break %}{% endif %}{% endfor %}", 2 * 10),
        ("{% for i in s %}{% endfor %}", 50),
        ("{% set y = s.upper() %}", 2),
        ("{% set y = s['upper']() | upper %}", 3),
        ("{% set y = 1 + 1 %}", 1),
        ("{% set y = (1, [2], {3: 4}) %}", 3),
        ("{% set y = 1 < 2 < 3 %}", 1),
        ("{% set y = 1 is odd %}", 1),
        ("{% set y = x[1:] %}", 1),
        ("{% set y = s ~ 1 %}", 1),
        ("{% set y = x | map('string') %}", 1 + 50),
        ("{% set y = x | map('string') | list %}", 1 + 50 + 1),
        ("{% for i in x recursive %}{% if not i and b %}{{ loop(b) }}{% endif %}{% endfor %}", 50 + 3),
        (
            "{% for i in [x] recursive %}{% if i is iterable %}{{ loop(i) }}{% endif %}{% endfor %}",
            1 + 51 * 2 + 1 + 2 * 3,
        ),
    ],
)
def test_each_thing_done_looks_at_the_clock(source, n, monkeypatch):
    base = looks("", monkeypatch)
    assert looks(source, monkeypatch) - base == n


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("{% for i in range(N) %}{% set y = 'a' * 9999 %}{% endfor %}", 6),
        ("{% set x = 'a' * 9999 %}{% for i in range(N) %}{{ x }}{% endfor %}", 5),
        ("{% set x = 'a' * 9999 %}{% for i in range(N) %}{% set y %}b{{ x }}{% endset %}{% endfor %}", 5),
        ("{% set x = 'a' * 9999 %}{% for i in range(N) %}{% set y = x[1:] %}{% endfor %}", 5),
        ("{% set x = 'a' * 9999 %}{% for i in range(N) %}{% set y = x.upper() %}{% endfor %}", 5),
        ("{% set x = [0] * 999 %}{% for i in range(N) %}{% set y = x + [1] %}{% endfor %}", 7),
        (
            "{% set x = [0] * 999 %}{% macro m() %}{{ varargs | length }}{% endmacro %}{% for i in range(N) %}"
            "{% set y = m(*x) %}{% endfor %}",
            7,
        ),
    ],
)
def test_all_that_a_render_makes_is_bounded_together(source, n, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SIZE", 1 << 16)
    rendered(source.replace("N", str(n)))
    with pytest.raises(TokenizerError, match="of the size .* are allowed"):
        rendered(source.replace("N", str(n + 1)))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 2 ** 5000 > 1 }}",
        "{% set x = 2 ** 2000 %}{% set y = x * x * x %}",
        "{{ 1.5 | round(2000, 'ceil') }}",
        "{% set x = ['a' * 9999999] %}{% set y = [x, x, x, x, x, x, x] %}",
        "{% set x = {1: {2: 'a' * 9999999}} %}{% set y = (x, x, x, x, x, x, x) %}",
        "{% set x = 99999999 * 'a' %}",
        "{{ ('a' * 999999) | center(999) }}",
        "{{ ('ā' * 9999).strip('a' * 9999 ~ 'ā') }}",
        "{{ ('ā' * 9999).lstrip('a' * 9999 ~ 'ā') }}",
        "{{ ('ā' * 9999).rstrip('a' * 9999 ~ 'ā') }}",
        "{{ ('ā' * 9999) | trim('a' * 9999 ~ 'ā') }}",
        "{{ ['ā' * 9999] | map('trim', 'a' * 9999 ~ 'ā') | first }}",
        "{% set x = range(0, 9999 * (2 ** 61 - 1), 2 ** 61 - 1) %}{{ x | unique | list }}",
        "{% set x = range(0, 9999 * (2 ** 61 - 1), 2 ** 61 - 1) %}{{ {}.fromkeys(x) }}",
        "{% set x = range(0, 19999 * (2 ** 61 - 1), 2 ** 61 - 1) %}{{ dict(x | batch(2)) }}",
        "{% set x = range(0, 19999 * (2 ** 61 - 1), 2 ** 61 - 1) %}{{ namespace(x | batch(2)) }}",
        "{{ '{0}{0}{0}{0}{0}{0}{0}'.format('a' * 9999999) }}",
    ],
)
def test_what_is_too_large_is_refused_by_its_size(source):
    with pytest.raises(TokenizerError, match="of the size .* are allowed"):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "'%9999d' % 1",
        "'%*d' % (1, 1)",
        "'%9999d' | format(1)",
        "'{:>9999}'.format(1)",
        "'{:{}}'.format(1, 2)",
        "'{a:>9999}'.format_map({'a': 1})",
        "('{:>9999}' | attr('format'))(1)",
    ],
)
def test_wide_formats_are_refused(source):
    with pytest.raises(TokenizerError, match="width of four digits or more, or a computed one"):
        rendered("{{ " + source + " }}")


@pytest.mark.parametrize("source", ["(1).to_bytes(9)", "'a'.encode()"])
def test_there_is_no_way_to_bytes(source):
    with pytest.raises(TokenizerError, match="is unsafe"):
        rendered("{{ " + source + " }}")


@pytest.mark.parametrize("given", ["start=[]", "none, [0]", "start=(1,)"])
def test_lists_are_not_summed(given):
    with pytest.raises(TokenizerError, match="sums lists"):
        rendered("{{ [[1], [2]] | sum(" + given + ") }}")


BOMBS = {
    "nested range": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "lists of ranges": "{% for a in range(99999) %}{% set x = range(99999) | list %}{% endfor %}",
    "range alone": "{{ range(10 ** 9) | list }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "power of powers": "{{ 9 ** (9 ** 9) }}",
    "products": "{% set n = namespace(x=2) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "string product": "{{ 'A' * 10 ** 10 }}",
    "list product": "{{ [0] * 10 ** 10 }}",
    "string product, reversed": "{{ (10 ** 10) * 'A' }}",
    "format width": "{{ '%0999999999d' % 1 }}",
    "format width taken from an argument": "{{ '%*d' % (999999999, 1) }}",
    "format filter": "{{ '%0999999999d' | format(1) }}",
    "format method": "{{ '{:>999999999}'.format(1) }}",
    "format method, nested": "{{ '{:{}}'.format(1, 999999999) }}",
    "format method by attribute": "{{ ('{:>999999999}' | attr('format'))(1) }}",
    "format precision": "{{ '{:.999999999f}'.format(1.0) }}",
    "many formats": "{{ ('%s' * 9999) % ((('x' * 9999999),) * 9999) }}",
    "center": "{{ 'a' | center(10 ** 9) }}",
    "ljust": "{{ 'a'.ljust(10 ** 9) }}",
    "zfill": "{{ 'a'.zfill(10 ** 9) }}",
    "expandtabs": "{{ '\t'.expandtabs(10 ** 9) }}",
    "to_bytes": "{{ (1).to_bytes(10 ** 9) }}",
    "indent": "{{ 'a\nb' | indent(10 ** 9) }}",
    "indent by keyword": "{{ 'a\nb' | indent(width=10 ** 9) }}",
    "json indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "json indent as text": "{{ range(9999) | list | tojson(indent='x' * 99999) }}",
    "replace": "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}",
    "replace filter": "{{ ('a' * 9999999) | replace('a', 'b' * 9999999) }}",
    "replace filter by keyword": "{{ ('a' * 9999999) | replace(old='a', new='b' * 9999999) }}",
    "replace of nothing": "{{ ('a' * 9999999).replace('', 'b' * 9999999) }}",
    "join": "{{ ('x' * 9999999).join(range(9999) | map('string')) }}",
    "join filter": "{{ range(99999) | join('x' * 9999999) }}",
    "join filter by keyword": "{{ range(99999) | join(d='x' * 9999999) }}",
    "doubling": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling with ~": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling blocks": "{% set n = namespace(x='aa') %}{% for i in range(99) %}{% set y %}{{ n.x }}{{ n.x }}"
    "{% endset %}{% set n.x = y %}{% endfor %}",
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "slices": "{{ [1] | slice(10 ** 9) | list }}",
    "sum of lists": "{{ ([[1]] * 99999) | sum(start=[]) | length }}",
    "sums of mapped lists": "{{ range(99999) | map('string') | map('list') | sum(start=[]) | length }}",
    "endless macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "branching macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "branching loop": "{% for x in [60] recursive %}{% if x %}{{ loop([x - 1]) }}{{ loop([x - 1]) }}{% endif %}"
    "{% endfor %}",
    "deep parentheses": "{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}",
    "deep lists": "{{ " + "[" * 30_000 + "]" * 30_000 + " }}",
    "deep not": "{{ " + "not " * 30_000 + "1 }}",
    "deep filters": "{{ 1 " + "|string" * 15_000 + " }}",
    "deep blocks": "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "lipsum": "{{ lipsum(n=10 ** 9) }}",
    "too long": " " * (MAX_TEMPLATE + 1),
    "round": "{{ 1.5 | round(10 ** 9) }}{{ (7 ** 999) ** 999 }}",
    "lists within lists": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x }}",
    "tuples within mappings": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = {1: (n.x, n.x)} %}"
    "{% endfor %}{{ n.x == n.x }}",
    "mappings within mappings": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = {1: n.x, 2: n.x} %}"
    "{% endfor %}{{ n.x }}",
    "tuples within tuples": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}"
    "{{ n.x }}",
    "one long text many times": "{% set x = 'a' * 9999999 %}{{ [x, x, x, x, x, x, x] | join }}",
    "one long text many times with ~": "{% set x = 'a' * 9999999 %}{{ x ~ x ~ x ~ x ~ x ~ x ~ x }}",
    "views of views": "{% set n = namespace(x={}) %}{% for i in range(60) %}{% set n.x = {1: n.x.values(), 2: n.x} %}"
    "{% endfor %}{{ n.x }}",
    "loops over one list": "{% set x = range(99999) | list %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "loops that call themselves": "{% set x = range(99999) | list %}{% for a in x recursive %}{% if loop.depth < 4 %}"
    "{{ loop(x) }}{% endif %}{% endfor %}",
    "lazy filters": "{% for i in range(99) %}{{ range(99999) | select | select | select | length }}{% endfor %}",
    "searches from behind": "{% for i in range(99) %}{{ ('a' * 8000000).rfind('b' ~ 'a' * 4000000) }}{% endfor %}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "slow codecs": "{{ ('\u00e9' * 9999999).encode('punycode') }}",
    "a base raised": "{{ 2.0 ** 99999 }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_in_an_error_of_ours(name, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.1)
    with pytest.raises((TokenizerError, InputError)) as caught:
        rendered(BOMBS[name])
    assert "MemoryError" not in str(caught.value)


N = 300_000_000
SUBJECTS: list[Any] = ["ab", [1, 2], 7, 1.5, {"a": 1}, range(9), b"ab"]
ARGUMENTS = [((N,), {}), (("a", N), {}), ((N, "a"), {}), (("b", "c" * 9999, N), {}), ((), {"indent": N})]


def calls() -> Iterator[tuple[str, Any]]:
    """Each filter and each method of a value, as a template that calls it, with the values that have it."""
    for name in Sandbox().filters:
        if name.isidentifier():
            yield "{{ keep(x | " + name + "(*args, **kwargs)) }}", SUBJECTS
    for name in sorted({name for subject in SUBJECTS for name in dir(subject) if not name.startswith("_")}):
        yield "{{ keep(x." + name + "(*args, **kwargs)) }}", [x for x in SUBJECTS if hasattr(x, name)]


def test_nothing_that_jinja_has_makes_much_of_a_great_number():
    """Whatever filter or method it is: an error, or something small."""
    for source, subjects in calls():
        for subject, (args, kwargs) in itertools.product(subjects, ARGUMENTS):
            kept: list[Any] = []
            with contextlib.suppress(TokenizerError, InputError):
                render_template(source, {"keep": kept.append, "x": subject, "args": args, "kwargs": kwargs})
            large = [value for value in kept if isinstance(value, Sized) and len(value) > MAX_SIZE]
            assert not large, (source, subject, args)


def test_nothing_is_computed_before_a_render(monkeypatch):
    assert looks("{{ 'a' | upper }}", monkeypatch) - looks("{{ 'a' }}", monkeypatch) == 1


def test_the_clock_stops_a_render(monkeypatch):
    clock = itertools.count(step=0.5)
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    assert rendered("{% for a in range(2) %}{{ a }}{% endfor %}") == "01"
    with pytest.raises(TokenizerError, match="longer than 5 seconds"):
        rendered("{% for a in range(9) %}{{ a }}{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1764000000 | string ~ (1764000000.5 | round(2)) ~ 4294967295 * 2 ~ 1.5 * 10 ** 9 }}",
        "{{ '%d of {} in 2024' % 4294967295 }}{{ 'at 12:2024 {}'.format(4294967295) }}{{ '2024 %s' | format(2024) }}",
        "{{ {'maximum': 9007199254740991} | tojson(indent=2) }}{{ x | default(2147483647) }}",
        "{{ range(99999) | list | length }}{% set n = namespace(now=1764000000) %}{{ n.now }}",
        "{{ long.replace('<think>', '') | length }}{{ long.split('</think>') | length }}{{ long | trim | length }}",
        "{% macro m(a, b) %}{{ a | length + b | length }}{% endmacro %}{{ m(long, long) }}{{ m(a=long, b=long) }}",
        "{% macro m(context, obj) %}{{ context }}{% endmacro %}{{ m(context='c', obj='o') }}",
        "{{ long.strip('\\n ') | length }}{{ long | unique | join }}{{ range(5000) | unique | list | length }}",
        "{{ long ~ long | length }}{{ '<|im_start|>' + long + '<|im_end|>' | string }}",
    ],
)
def test_large_things_that_are_no_bombs_pass(source):
    assert rendered(source, long="word " * 400_000)


def test_broken_templates_are_named():
    with pytest.raises(TokenizerError, match="TemplateSyntaxError"):
        rendered("{% if %}")
    with pytest.raises(TokenizerError, match="UndefinedError"):
        rendered("{{ a.b.c }}")


def test_a_template_in_use_is_compiled_once(monkeypatch):
    compiled = []
    real = Sandbox.compile
    monkeypatch.setattr(Sandbox, "compile", lambda *args: compiled.append(args) or real(*args))
    for _ in range(3):
        rendered("{# once #}{{ 1 }}")
    assert len(compiled) == 1
