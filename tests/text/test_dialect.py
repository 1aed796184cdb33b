"""Chat templates mean here what they mean under transformers: a table of the dialect, beside jinja2's own sandbox.

The reference is jinja2's `ImmutableSandboxedEnvironment` with the options, the tag, the filter and the functions that
transformers gives it.
"""

import datetime
import json

import jinja2
import pytest
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vishwamai.text.messages import check_messages
from vishwamai.text.sandbox import render_template, template_facts

NOW = datetime.datetime(2026, 11, 24, 9, 5)
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": "1", "b": [True, None]}}}
MESSAGES = [
    {"role": "system", "content": "  Be brief. /no_think \n"},
    {"role": "user", "content": "What is 12 + 34? <é> hello 42", "extra": {1: "one", "n": 2.5}},
    {"role": "assistant", "content": "<think>\nadd them\n</think>\n\nIt is 46.", "tool_calls": [CALL]},
    {"role": "user", "content": [{"type": "text", "text": "a,b,,c"}, {"type": "text", "text": "\"q\" \\ 'x'"}]},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}}]
VALUES = {"messages": MESSAGES, "tools": TOOLS, "documents": None, "add_generation_prompt": True, "flag": False}

FEATURES = """
{% if true %}⏎a⏎{% endif %}⏎b
  {% if true %}a{% endif %}⏎  b
{%- if flag -%} x {%- elif tools %} y {%- else %} z {% endif %}
{# a comment #}a{#- another -#} b
{% raw %}{{ not read }}{% endraw %}
a⏎⏎{{ 1 }}⏎
{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{% endfor %}
{% for x in [1, 2, 3] %}{{ loop.revindex }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 2) }}{% endfor %}
{% for x in 'aabb' %}{{ loop.changed(x) }}{{ loop.depth }}{% endfor %}
{% for x in [] %}a{% else %}none{% endfor %}
{% for x in messages if x.role == 'user' %}{{ loop.length }}{{ x.role }}{% endfor %}
{% for i in range(5) %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for x in [[1, [2, [3]]], [4]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for x in range(9, 0, -3) %}{{ x }}{% endfor %}
{% for c in messages[0].content %}{{ c }}|{% endfor %}
{% for key in messages[1].extra %}{{ key }}{% endfor %}
{% set ns = namespace(n=0, s='') %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ ns.s }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c %}<{{ a }}>{% endset %}{{ c }}{% set d | upper %}x{% endset %}{{ d }}
{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}
{% macro m(x, y='d') %}[{{ x }}{{ y }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m('a') ~ m(1, 2, 3, z=4) }}
{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% call(y) m('a') %}<{{ y }}>{% endcall %}
{% macro a(n) %}{{ n }}{% if n %}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(3) }}
{% filter upper %}x{{ 'y' }}{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
a{% generation %}b{{ 1 }}{% endgeneration %}c
{% block one %}x{% endblock %}{{ self.one() }}
{{ strftime_now('%d %b %Y') }}{{ strftime_now('%H:%M') }}
{{ missing }}{{ missing is defined }}{{ missing | default('d') }}{{ none | default('d', true) }}
{{ 'a' if flag else 'b' }}{{ 'a' if flag }}
{{ 1 + 2 * 3 ** 2 - 7 // 2 + 7 % 4 }} {{ 7 / 2 }} {{ -3 | abs }} {{ +1 }}
{{ 'a' + 'b' ~ 1 ~ none ~ 2.5 ~ [1] }}{{ '-' * 3 }}{{ 3 * '-' }}{{ [0] * 2 }}{{ [1] + [2] }}
{{ '%s is %d or %.2f' % ('x', 3, 2.5) }}{{ '%05d' % 42 }}{{ '%(a)s' % {'a': 1} }}{{ '100%% of %s' % 2024 }}
{{ 'x{}y{a}{:>4}'.format(1, 2, a=3) }}{{ '{0.role}'.format(messages[0]) }}{{ '{n[a]}'.format_map({'n': {'a': 5}}) }}
{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ 1 < 2 < 3 }}{{ not true and false or true }}{{ 1 != 2 }}{{ 2 >= 2 }}
{{ 'a' in 'abc' }}{{ 4 not in [1, 2] }}{{ 'role' in messages[0] }}{{ messages[0].role in ['system', 'x'] }}
{{ 'x'[::-1] }}{{ 'hello'[1:3] }}{{ messages[1:] | length }}{{ messages[::-1][0].role }}{{ messages[-1].role }}
{{ messages[0]['role'] }}{{ messages[1].extra[1] }}{{ messages[1].extra.n }}{{ messages[0].nothing is undefined }}
{{ messages[0].get('nothing', 'd') }}{{ messages[0].keys() | list }}
{{ tools[0].function.parameters.properties.items() | list }}
{{ {'a': '<é>', 'b': [1, true, none, 1.5]} | tojson }}{{ 'x"y' | tojson }}{{ messages[1] | tojson }}
{{ {'b': 1, 'a': [1, {}]} | tojson(indent=2) }}{{ {'a': 1, 'b': 2} | tojson(separators=(',', ':')) }}
{{ 'é' | tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}{{ tools | tojson(indent=4) }}
{{ messages[0].content | trim }}|{{ messages[0].content.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ '  a '.lstrip() }}|
{{ messages[2].content.split('</think>')[-1].lstrip('⏎') }}
{{ messages[2].content.split('</think>')[0].split('<think>')[-1] }}
{{ messages[2].content.startswith('<think>') }}
{{ messages[2].content.endswith('.') }}{{ '/no_think' in messages[0].content }}
{{ messages[0].content.replace('/no_think', '') | trim }}
{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aXa' | replace('a', '<') }}
{{ messages[1].content.find('12') }}{{ messages[1].content.index('is') }}
{{ messages[1].content.count('1') }}{{ 'abcabc'.rfind('b') }}
{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}
{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a⏎b'.splitlines() }}{{ ' a  b '.split() }}
{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ 'abc'.upper() }}{{ 'ABC'.lower() }}{{ 'a b'.title() }}
{{ 'a'.isdigit() }}{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}{{ 'A'.isupper() }}{{ 'aB'.swapcase() }}
{{ 'a'.center(5) }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}
{{ '7'.zfill(3) }}|{{ 'a⇥b'.expandtabs(4) }}|{{ ','.join(['a', 'b']) }}
{{ ['b', 'a', 'C'] | sort | join('-') }} {{ [3, 1] | sort(reverse=true) }}
{{ messages | sort(attribute='role') | map(attribute='role') | list }}
{{ 'a b'.split() | last }}{{ [1, 2] | first }}{{ [] | first }}
{{ [3, 1, 2] | min }}{{ [3, 1, 2] | max }}{{ [1, 2] | sum }}
{{ [1, 2] | map('string') | join(',') }}
{{ messages | map(attribute='role') | join(' ') }}{{ ['a'] | map('upper') | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages | rejectattr('role', '==', 'user') | list | length }}
{{ [1, 2, 3, 4] | select('odd') | list }}{{ [1, none] | reject('none') | list }}
{{ messages | selectattr('tool_calls', 'defined') | list | count }}
{{ messages | groupby('role') | map('first') | list }}{{ [1, 1, 2] | unique | list }}
{{ {'b': 1, 'a': 2} | dictsort }}{{ {'a': 1} | items | list }}
{{ [1, 2, 3] | reverse | list }}{{ 'abc' | reverse }}
{{ [1, 2, 3, 4, 5] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}
{{ 'hello world' | title }}{{ 'hello' | capitalize }}
{{ 'A' | lower }}{{ 'a' | upper }}{{ messages[1].content | title }}
{{ messages[1].content.split()[-1] | int + 1 }}{{ messages[1].content.split()[-1] | float }}
{{ 'x' | int(9) }}{{ 3.7 | round }}{{ 3.14159 | round(2) }}
{{ '<a> & "b"' | e }}{{ '<a>' | escape }}{{ '<a>' | safe }}{{ '<a>' | forceescape }}{{ 'a b&' | urlencode }}
{{ 'a⏎b⏎⏎c' | indent(2) }}{{ 'a⏎b' | indent('> ', true) }}
{{ 'a long text here' | truncate(9) }}{{ 'a b c' | wordcount }}{{ 'a' | center(5) }}
{{ 'a%sb' | format(1) }}{{ 1000000 | filesizeformat }}{{ 'abc' | list }}
{{ 5 | string ~ 1 }}{{ [1] | string }}{{ messages[0] | attr('role') is undefined }}
{{ 1 is number }}{{ 'a' is string }}{{ [] is sequence }}{{ {} is mapping }}
{{ none is none }}{{ true is boolean }}{{ 1 is integer }}{{ 1.0 is float }}
{{ 3 is odd }}{{ 4 is even }}{{ 6 is divisibleby 3 }}{{ 1 is eq 1 }}{{ 1 is in [1] }}
{{ 'a' is lower }}{{ false is false }}{{ 2 is gt 1 }}{{ x is not defined }}
{{ messages is iterable }}{{ dict is callable }}{{ 'upper' is filter }}
{{ 'odd' is test }}{{ none is sameas none }}{{ 2 is ne 1 }}
{{ dict(a=1, b='c') }}{{ dict([('x', 1)]) }}{{ {'a': 1}.items() | list }}
{{ {'a': {'b': 2}}.a.b }}{{ {1: 'x'}[1] }}{{ (1, 2) }}{{ (1,) }}
{% set j = joiner(', ') %}{% for x in [1, 2, 3] %}{{ j() }}{{ x }}{% endfor %}
{% set c = cycler('odd', 'even') %}{% for x in [1, 2, 3] %}{{ c.next() }}{% endfor %}{{ c.current }}
{% if messages[1].content in 'What is 12 + 34? <é> hello 42 and more' %}Y{% else %}N{% endif %}
{% for p in tools[0].function.parameters.properties.values() %}{{ p.type in 'integer string' }}{% endfor %}
{{ 'A: What is 12 + 34? <é> hello 42!'.replace(messages[1].content, 'X') }}
{{ 'aWhat is 12 + 34? <é> hello 42b'.split(messages[1].content) }}
{{ messages[1].content == 'What is 12 + 34? <é> hello 42' }}
{{ {'user': 'U'}[messages[1].role] }}{{ {'What is': 1}.get(messages[1].content[:7]) }}
{% for part in messages[3].content if part.type == 'text' %}{{ part.text }}{% endfor %}{{ messages[3] is string }}
{% set c = messages[0].content if messages[0].role == 'system' else '' %}{{ c | trim ~ '⏎' }}{{ c | length }}
{{ messages[2].tool_calls[0].function.arguments | tojson }}
{{ messages[2].tool_calls[0].function.name }}{{ messages[2].tool_calls | length }}
{% set rest = messages[1:] %}{% for m in rest %}{{ loop.index0 is even }}{{ m['role'] }}{% endfor %}
{% set ns = namespace(last=-1) %}{% for m in messages %}{% set ns.last = loop.index0 %}{% endfor %}{{ ns.last }}
{{- '<|im_start|>' + messages[0].role + '⏎' }}{{ '<|im_end|>' + '⏎' -}}
{{ "double 'quotes'" }}{{ 'it''s' }}{{ '\\n\\t\\u00e9' }}{{ 'tab⇥' }}
{{ messages | length }}{{ messages | count }}{{ messages[0] | length }}
{{ messages[1].extra | d }}{{ 1_000 }}{{ 0x10 }}{{ 1e3 }}
{% if messages[0]['role'] == 'system' and messages | length > 1 and (tools or documents) and not flag %}all{% endif %}
{% autoescape true %}{{ '<a>' }}{% endautoescape %}
{{ ['<b>', 1] | join('<') }}{{ 'a' ~ ('<' | e) }}{{ ('<' | e) + '<' }}
{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 1) %}{{ loop.index }}{% endif %}{% endfor %}
{% set names = messages | map(attribute='role') | unique | list %}{{ names[0] }}{{ 'user' in names }}
""".strip().split("\n")


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("run"), [], [], body).set_lineno(line)

    def run(self, caller):
        return caller()


def reference(source: str, values: dict) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: (
        json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    )
    environment.globals["strftime_now"] = NOW.strftime
    return environment.from_string(source).render(values)


@pytest.mark.parametrize("line", FEATURES)
def test_the_dialect_is_jinjas_under_transformers(line):
    source = line.replace("⏎", "\n").replace("⇥", "\t")
    assert render_template(source, VALUES, NOW) == reference(source, VALUES)


def test_the_table_is_long_and_its_lines_differ():
    assert len(set(FEATURES)) == len(FEATURES) >= 83


def test_every_filter_and_test_of_jinja_is_there_or_known_to_be_left_out():
    from vishwamai.text.sandbox import NO_FILTERS, Sandbox

    theirs, ours = ImmutableSandboxedEnvironment(), Sandbox()
    assert {*theirs.filters} - {*ours.filters} == {*NO_FILTERS}
    assert {*theirs.tests} == {*ours.tests} and {*theirs.globals} - {*ours.globals} == {"lipsum"}


def test_what_a_template_says_of_itself():
    facts = template_facts("{{ '<|im_end|>' ~ a.role }}text{% for m in b %}{{ m['x'] }}{% endfor %}{{ bos_token }}")
    assert facts.variables == {"a", "b", "bos_token"} and {"<|im_end|>", "role", "x"} <= facts.texts
    assert "text" in facts.texts and "for" not in facts.texts


def test_messages_reach_the_template_as_they_are():
    assert check_messages(MESSAGES)[1]["extra"] == {1: "one", "n": 2.5}
