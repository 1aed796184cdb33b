"""The Jinja that chat templates run in: the sandbox and the dialect of transformers, within bounds.

A template comes with a model's files and may be hostile. Jinja's sandbox keeps it from the machine. Here each operation
(turn of a loop, call, attribute, filter, operator, literal, piece of output) goes through `Sandbox._run`, which looks
at the thread's clock and at the room that is left: all that a render makes has `MAX_SIZE` characters. What could make
or cost much of little is refused before it runs. Not bounded is one operation by itself: some seconds, a gigabyte.
"""

import datetime
import functools
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, GeneratorType
from typing import Any, NamedTuple

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from vishwamai.errors import InputError, TokenizerError, VishwamAIError

MAX_TEMPLATE = 128_000
MAX_SECONDS = 5.0
MAX_SIZE = 1 << 26
MAX_BITS = 4096
# What may make, or cost, the product of the two largest things it is given; a number that says how many is that large.
FORMATS = frozenset(("%", "format", "format_map"))
PRODUCTS = FORMATS | frozenset(
    "* replace join translate indent tojson batch slice center ljust rjust zfill expandtabs "
    "rfind rindex rsplit rpartition strip lstrip rstrip trim".split()
)
# What costs the square of the number of its items where all have one hash, as numbers and tuples may.
HASHED = frozenset(("unique", "fromkeys", "Namespace", "_to_dict"))
# A width or precision of four digits, or one that is computed, in "%9999d" and in "{:9999}".
WIDE = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)|\{[^{}]*:[^{}]*(\d{4}|\{)")
# These are slow on long texts, or draw by chance.
NO_FILTERS = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")

Run = Callable[[Callable[[], Any]], Any]


class TemplateRefusal(TemplateError):
    """What a template says by `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` goes round the assistant's words."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.FilterBlock(body, nodes.Filter(None, " said", [], [], None, None), lineno=line)


class _Hooks(NodeTransformer):
    """Has what Jinja does by itself go through filters, " made" if need be, which no template can name."""

    def generic_visit(self, node: nodes.Node) -> nodes.Node:
        def filtered(name: str, value: Any) -> nodes.Filter:
            return nodes.Filter(value, name, [], [], None, None, lineno=node.lineno)

        super().generic_visit(node)
        if isinstance(node, nodes.For):
            node.body.insert(0, nodes.ExprStmt(filtered(" made", nodes.Const(None)), lineno=node.lineno))
        if isinstance(node, nodes.Concat):
            return filtered("join", nodes.List(node.nodes))
        is_made = (
            isinstance(node, nodes.List | nodes.Dict | nodes.Compare)
            or getattr(node, "ctx", "") == "load"
            and (isinstance(node, nodes.Tuple) or isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice))
        )
        return filtered(" made", node) if is_made else node


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one render.

    `spans` are put round what `{% generation %}` gives. `run` runs each operation, and what it gives is the result.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(
        self,
        now: datetime.datetime | None = None,
        spans: tuple[str, str] = ("", ""),
        run: Run = lambda operation: operation(),
    ):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])
        self._result, self._used, self._deadline = run, 0, time.thread_time() + MAX_SECONDS
        self._sizes: dict[int, tuple[Any, int]] = {}  # by id, with the value: it must live as long as its id counts
        self.filters = {name: filter for name, filter in self.filters.items() if name not in NO_FILTERS}
        self.filters |= {"tojson": _to_json, " made": lambda value: value, " said": lambda text: text.join(spans)}
        for table in (self.filters, self.tests, self.binop_table):
            table.update({name: self._wrap(name, action) for name, action in table.items()})
        self.getattr, self.getitem = self._wrap("", super().getattr), self._wrap("", super().getitem)
        del self.globals["lipsum"]
        self.globals |= {"dict": _to_dict, "raise_exception": _refuse}
        self.globals["strftime_now"] = lambda form: (now or datetime.datetime.now()).strftime(form)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Hooks().visit(super()._parse(source, name, filename))

    def concat(self, parts: Iterable[str]) -> str:
        """Joins what a template, a macro or a block puts out."""
        made = self.filters[" made"]
        return made("".join(made([*map(made, parts)])))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function, a method or a macro of a template."""
        call, method = super().call, getattr(obj, "__wrapped__", obj)  # Jinja wraps `str.format`.
        self._size((args, kwargs))
        self._check(getattr(method, "__name__", ""), getattr(method, "__self__", None), *args, *kwargs.values())
        return self._run(lambda: call(context, obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rules; and no way to bytes, for some codecs are slow."""
        return attr not in ("encode", "to_bytes") and super().is_safe_attribute(obj, attr, value)

    def _wrap(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """A filter, a test or an operator within the bounds."""
        first = int(hasattr(run, "jinja_pass_arg"))

        @functools.wraps(run, assigned=())
        def checked(*args: Any, **kwargs: Any) -> Any:
            self._check(name, *args[first:], *kwargs.values())
            return self._run(lambda: run(*args, **kwargs))

        return checked

    def _check(self, name: str, subject: Any, *given: Any) -> None:
        """Refuses what could make too much of what it is given."""
        if name in FORMATS and isinstance(subject, str) and WIDE.search(subject):
            raise TokenizerError("the chat template formats with a width of four digits or more, or a computed one")
        if name in HASHED:
            for items in (subject, *given):
                _check_size(len(items) ** 2 if isinstance(items, Collection) and not isinstance(items, str) else 1)
        if name == "sum" and any(isinstance(value, list | tuple) for value in given):
            raise TokenizerError("the chat template sums lists")
        if name in ("**", "round") and given and isinstance(given[0], int):
            _check_size(given[0] * (subject.bit_length() if isinstance(subject, int) else 4), MAX_BITS)
        if name == "*" and isinstance(subject, int):
            subject, given = given[0], (subject,)
        if name in PRODUCTS and (name != "*" or not isinstance(subject, int | float)):
            counts = () if name in FORMATS else int
            sizes = [abs(value) if isinstance(value, counts) else self._size(value) for value in given]
            *_, second, largest = sorted([1, self._size(subject), *sizes])
            _check_size(second * largest)

    def _run(self, operation: Callable[[], Any]) -> Any:
        """What an operation gives, if there is time and room for it; what it would give one by one is a list."""
        if time.thread_time() > self._deadline:
            raise TokenizerError(f"the chat template takes longer than {MAX_SECONDS:g} seconds of computing")

        def run() -> Any:
            value = operation()
            return [*value] if isinstance(value, GeneratorType) else value

        value = self._result(run)
        self._size(value)
        return value

    def _size(self, value: Any) -> int:
        """How many characters are in a value, however deep; an item is eight more. A new value takes room."""
        if isinstance(value, int):
            _check_size(value.bit_length(), MAX_BITS)
        if not isinstance(value, Collection):
            return 1
        if id(value) not in self._sizes:
            is_flat = isinstance(value, str | bytes | range)
            size = len(value) if is_flat else 8 * len(value)
            self._used += size
            _check_size(self._used)
            parts = () if is_flat else [*value, *value.values()] if isinstance(value, dict) else value
            self._sizes[id(value)] = value, sum(map(self._size, parts), size)
            _check_size(self._sizes[id(value)][1])
        return self._sizes[id(value)][1]


def _check_size(size: int, limit: int | None = None) -> None:
    limit = MAX_SIZE if limit is None else limit
    if size > limit:
        raise TokenizerError(f"the chat template makes a value of the size {size:,}; {limit:,} are allowed")


def _refuse(message: Any) -> None:
    raise TemplateRefusal(message)


def _to_dict(*args: Any, **values: Any) -> dict[Any, Any]:
    return dict(*args, **values)


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


@_template_errors()
def render_template(source: str, variables: dict[str, Any], *given: Any) -> str:
    """What the template makes of the variables; `given` are arguments of its `Sandbox`.

    Raises `TokenizerError` for a template that is too large, broken, forbidden or too dear, `InputError` where the
    template itself refuses the messages.
    """
    sandbox = Sandbox(*given)
    return Template.from_code(sandbox, _compile(source), sandbox.make_globals(None)).render(variables)


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> CodeType:
    if len(source) > MAX_TEMPLATE:
        raise TokenizerError(f"the chat template has {len(source):,} characters; {MAX_TEMPLATE:,} are allowed")
    return Sandbox(run=_refuse).compile(source)  # So the compiler computes nothing ahead of a render.


class Facts(NamedTuple):
    """Of a template: the variables that it reads, and the texts and names in it."""

    variables: frozenset[str]
    texts: frozenset[str]


@functools.lru_cache(maxsize=64)
@_template_errors()
def template_facts(source: str) -> Facts:
    """What a template says of itself. Raises `TokenizerError` for one that is broken."""
    _compile(source)
    tree = Sandbox().parse(source)
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    texts += [node.attr for node in tree.find_all(nodes.Getattr)]
    return Facts(frozenset(meta.find_undeclared_variables(tree)), frozenset(texts))
