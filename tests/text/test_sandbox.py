"""Chat templates: the dialect they are written in, and what hostile ones cannot do.

The hostile ones are those of the CVEs against Jinja and its users (CVE-2024-34359, 2024-56326, 2025-27516, 2026-5760)
and the bombs that a sandbox alone does not stop.
"""

import datetime
import time

import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text import budget
from vishwamai.text.marks import Marks
from vishwamai.text.sandbox import MAX_TEMPLATE, render_template


def rendered(source: str, **variables: object) -> str:
    marks = Marks()
    return marks.plain(render_template(source, variables, marks))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% if true %}\na\n{% endif %}\nb", "a\nb"),
        ("  {% if true %}a{% endif %}\n  b", "a  b"),
        ("{% for i in range(5) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}", "013"),
        ("{{ {'a': '<é>', 'b': [1, true, none]} | tojson }}", '{"a": "<é>", "b": [1, true, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') ~ m(1) }}", "[a][1]"),
        ("{{ strftime_now('%d %b %Y') }}", "24 Nov 2026"),
        ("a{% generation %}b{{ 1 }}{% endgeneration %}c", "ab1c"),
        ("{% for x in [1, 2, 3] %}{{ loop.index }}{{ '' if loop.last else ',' }}{% endfor %}", "1,2,3"),
        ("{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "12"),
        ("{{ ['b', 'a'] | sort | join('-') }} {{ 'a b'.split() | last }} {{ '%s' % 'x' }} {{ 'x{}'.format(1) }}",
         "a-b b x x1"),
        ("{{ missing is defined }}{{ missing }}{{ (dict(a=1)).items() | list }}", "False[('a', 1)]"),
        ("{{ 'a\nb' | indent(2) }}{{ '-' * 3 }}{{ 2 ** 3 }}{{ [1] + [2] }}", "a\n  b---8[1, 2]"),
        ("{{ [1, 2] | map('string') | join(',') }}{% filter upper %}x{% endfilter %}", "1,2X"),
        ("{{ [{'r': 'a'}, {'r': 'b'}] | selectattr('r', 'equalto', 'b') | list | length }}{{ 'x'[::-1] }}", "1x"),
    ],
)  # fmt: skip
def test_the_dialect(source, expected):
    marks = Marks()
    now = datetime.datetime(2026, 11, 24)
    assert marks.plain(render_template(source, {}, marks, now)) == expected


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
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon_in_an_error_of_ours(name, monkeypatch):
    monkeypatch.setattr(budget, "MAX_STEPS", budget.MAX_STEPS // 10)
    start = time.thread_time()
    with pytest.raises((TokenizerError, InputError)):
        rendered(BOMBS[name])
    assert time.thread_time() - start < 3


def test_the_clock_stops_what_the_steps_do_not(monkeypatch):
    monkeypatch.setattr(budget, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(budget, "MAX_STEPS", 10**9)
    with pytest.raises(TokenizerError, match="longer than 0.1 seconds"):
        rendered("{% for a in range(99999) %}{% for b in [1] %}{% endfor %}{% endfor %}")


def test_broken_templates_are_named():
    with pytest.raises(TokenizerError, match="TemplateSyntaxError"):
        rendered("{% if %}")
    with pytest.raises(TokenizerError, match="UndefinedError"):
        rendered("{{ a.b.c }}")


def test_a_template_in_use_is_compiled_once():
    source = "{# once #}" + "{{ 1 }}" * 3000
    first = time.thread_time()
    rendered(source)
    second = time.thread_time()
    rendered(source)
    assert time.thread_time() - second < (second - first) / 2
