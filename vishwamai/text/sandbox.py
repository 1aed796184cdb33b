"""The Jinja that chat templates run in: the sandbox and the dialect of transformers, within bounds.

A template comes with a model's files and may be hostile. Jinja's sandbox keeps it from the machine; what is added here
keeps it from doing or making too much. Each turn of a loop, call, filter and operation is a step: there are
`MAX_STEPS`, and at each the thread's clock is looked at. What could make much of little is refused before it runs, and
no literal or result may have more than `MAX_SIZE` characters and items, however deep. Not bounded is one step by
itself: at the worst some seconds, and a gigabyte for a moment.
"""

import datetime
import functools
import json
import re
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from itertools import chain
from types import CodeType
from typing import Any, NamedTuple

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from vishwamai.errors import InputError, TokenizerError, VishwamAIError
from vishwamai.text.marks import Answers

MAX_TEMPLATE = 128_000
MAX_STEPS = 500_000
MAX_SECONDS = 5.0
MAX_SIZE = 1 << 24
MAX_PRODUCT = 1 << 26
MAX_BITS = 4096
# What may make, or cost, the product of the two largest things it is given; a number that says how many is that large.
FORMATS = frozenset(("%", "format", "format_map"))
PRODUCTS = FORMATS | frozenset(
    "* replace join translate indent tojson batch slice round center ljust rjust zfill expandtabs to_bytes "
    "rfind rindex rsplit rpartition".split()
)
# A width or precision of four digits, or one that is computed, in "%9999d" and in "{:9999}".
WIDE = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)|\{[^{}]*:[^{}]*(\d{4}|\{)")
# These are slow on long texts, or draw by chance.
NO_FILTERS = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")


class TemplateRefusal(TemplateError):
    """What a template says by `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: the assistant's words, between the two texts of `environment.spans`."""

    tags = {"generation"}
    environment: Any

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_bracket"), [], [], body, lineno=line)

    def _bracket(self, caller: Callable[[], str]) -> str:
        return caller().join(self.environment.spans)


class _Bounds(NodeTransformer):
    """Has loops, literals, comparisons and `~` go through filters of `Sandbox` that no template can name."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(" counted", node.iter)
        return node

    def visit_List(self, node: nodes.Expr) -> nodes.Node:
        return _filtered(" bounded", self.generic_visit(node))

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.generic_visit(node) if node.ctx == "store" else self.visit_List(node)

    def visit_Compare(self, node: nodes.Expr) -> nodes.Node:
        return _filtered(" asked", self.generic_visit(node))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return _filtered(" joined", self.visit_List(nodes.List(node.nodes, lineno=node.lineno)))


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one render. `spans` are put round what `{% generation %}` gives; questions go to `answers`."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(
        self,
        now: datetime.datetime | None = None,
        spans: tuple[str, str] = ("", ""),
        answers: Answers | None = None,
        steps: int | None = None,
    ):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])
        self.spans, self._answers = spans, Answers() if answers is None else answers
        self._steps, self._deadline = MAX_STEPS if steps is None else steps, time.thread_time() + MAX_SECONDS
        self._sizes: dict[int, tuple[Any, int]] = {}  # by id, with the value: it must live as long as its id counts
        filters = {name: run for name, run in self.filters.items() if name not in NO_FILTERS} | {"tojson": _to_json}
        self.filters = {name: self._checked(name, run) for name, run in filters.items()}
        self.filters |= {" counted": self._counted, " bounded": self._bounded, " joined": self._joined}
        self.filters[" asked"] = lambda value: self._answers.ask("compare", lambda: value)
        self.tests = {name: self._checked(name, run) for name, run in self.tests.items()}
        self.binop_table = {name: self._checked(name, run) for name, run in self.binop_table.items()}
        del self.globals["lipsum"]
        self.globals |= {"dict": _dict, "raise_exception": _refuse}
        self.globals["strftime_now"] = lambda form: (now or datetime.datetime.now()).strftime(form)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Bounds().visit(super()._parse(source, name, filename))

    def concat(self, parts: Iterable[str]) -> str:
        """Joins what a template, a macro or a block puts out."""
        texts, size = [], 0
        for part in parts:
            size += len(part)
            _check_size(size)
            texts.append(part)
        return "".join(texts)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function, a method or a macro of a template."""
        call = super().call
        if isinstance(obj, LoopContext):
            args = (self._counted(args[0]), *args[1:])
        self._check(getattr(obj, "__name__", ""), getattr(obj, "__self__", None), *args, *kwargs.values())
        return self._answers.ask("call", lambda: self._bounded(call(context, obj, *args, **kwargs)))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rules; and no way from text to bytes, for some codecs are slow."""
        return attr != "encode" and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's safe `str.format`, checked."""
        wrapped = super().wrap_str_format(value)
        return wrapped and self._checked("format", wrapped, value.__self__)

    def _checked(self, name: str, run: Callable[..., Any], *subject: Any) -> Callable[..., Any]:
        """A filter, an operator or a method of `subject`, checked before it runs, and its result after."""
        first = int(hasattr(run, "jinja_pass_arg"))

        @functools.wraps(run, assigned=())
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._check(name, *subject, *args[first:], *kwargs.values())
            return self._answers.ask(name, lambda: self._bounded(run(*args, **kwargs)))

        return checked

    def _check(self, name: str, subject: Any, *given: Any) -> None:
        """Takes a step, and refuses what could make too much of what it is given."""
        self._spend()
        if name in FORMATS and isinstance(subject, str) and WIDE.search(subject):
            raise TokenizerError("the chat template formats with a width of four digits or more, or a computed one")
        if name == "sum" and any(isinstance(value, list | tuple) for value in given):
            raise TokenizerError("the chat template sums lists")
        if name == "**" and isinstance(subject, int) and isinstance(given[0], int):
            _check_size(subject.bit_length() * given[0], MAX_BITS)
        if name == "*" and isinstance(subject, int):
            subject, given = given[0], (subject,)
        is_product = name != "*" or not isinstance(subject, int | float)
        if name in PRODUCTS and given and is_product:
            counts = () if name in FORMATS else int
            sizes = [abs(value) if isinstance(value, counts) else self._size(value) for value in given]
            *_, second, largest = sorted([self._size(subject), *sizes])
            _check_size(second * largest, MAX_PRODUCT)

    def _spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise TokenizerError(f"the chat template needs more than {MAX_STEPS:,} steps")
        if time.thread_time() > self._deadline:
            raise TokenizerError(f"the chat template takes longer than {MAX_SECONDS:g} seconds of computing")

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """A loop's items; each is a step."""
        for item in items:
            self._spend()
            yield item

    def _bounded(self, value: Any) -> Any:
        """The same value, known to be small enough; what a filter would give one by one becomes a list."""
        if isinstance(value, Iterator) and not isinstance(value, LoopContext):
            value = list(self._counted(value))
        _check_size(self._size(value))
        return value

    def _joined(self, values: Iterable[Any]) -> str:
        return self.concat(map(str, values))

    def _size(self, value: Any) -> int:
        """How many characters and items are in a value, however deep. To look through a new one is a step an item."""
        if isinstance(value, str | bytes | range):
            return len(value)
        if isinstance(value, int):
            _check_size(value.bit_length(), MAX_BITS)
        if not isinstance(value, list | tuple | dict | KeysView | ValuesView | ItemsView):
            return 1
        if id(value) not in self._sizes:
            self._spend(len(value))
            items = chain.from_iterable(value.items()) if isinstance(value, dict) else value
            self._sizes[id(value)] = value, 1 + len(value) + sum(map(self._size, items))
        return self._sizes[id(value)][1]


def _check_size(size: int, limit: int = MAX_SIZE) -> None:
    if size > limit:
        raise TokenizerError(f"the chat template makes a value of the size {size:,}; {limit:,} are allowed")


def _refuse(message: str) -> None:
    raise TemplateRefusal(message)


def _dict(*args: Any, **values: Any) -> dict[Any, Any]:
    return dict(*args, **values)  # The type itself would lend the template its methods that change a dictionary.


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@contextmanager
def _template_errors() -> Iterator[None]:
    try:
        yield
    except TemplateRefusal as error:
        raise InputError(f"the chat template refuses the messages: {error}") from None
    except VishwamAIError:
        raise
    except Exception as error:
        raise TokenizerError(f"the chat template failed: {type(error).__name__}: {error}") from None


def render_template(
    source: str,
    variables: dict[str, Any],
    now: datetime.datetime | None = None,
    spans: tuple[str, str] = ("", ""),
    answers: Answers | None = None,
) -> str:
    """What the template makes of the variables.

    Raises `TokenizerError` for a template that is too large, broken, forbidden or too dear, `InputError` where the
    template itself refuses the messages.
    """
    with _template_errors():
        sandbox = Sandbox(now, spans, answers)
        return Template.from_code(sandbox, _compiled(source), sandbox.make_globals(None)).render(variables)


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> CodeType:
    if len(source) > MAX_TEMPLATE:
        raise TokenizerError(f"the chat template has {len(source):,} characters; {MAX_TEMPLATE:,} are allowed")
    return Sandbox(steps=0).compile(source)  # Without a step, the compiler computes nothing ahead of a render.


class Facts(NamedTuple):
    """Of a template: the variables that it reads, the texts in its expressions, all the text that it may put out."""

    variables: frozenset[str]
    texts: frozenset[str]
    output: str


@functools.lru_cache(maxsize=64)
def template_facts(source: str) -> Facts:
    """What a template says of itself. Raises `TokenizerError` for one that is broken."""
    with _template_errors():
        _compiled(source)
        tree = Sandbox().parse(source)
        texts = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        data = (node.data for node in tree.find_all(nodes.TemplateData))
        names = (node.attr for node in tree.find_all(nodes.Getattr))
        variables = frozenset(meta.find_undeclared_variables(tree))
        return Facts(variables, frozenset(texts.union(names)), "\0".join((*data, *texts)))
