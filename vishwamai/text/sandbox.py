"""The Jinja that chat templates run in: Hugging Face's dialect, without access to anything, on a budget.

The dialect: `trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}` (rendered as its body), `tojson` without
HTML escapes, `raise_exception`, `strftime_now`, `namespace`. Filters and methods that no chat needs and that could make
much of little (`center`, `ljust`, `to_bytes`) are absent. Strings come out with their marks (`text.marks`). It knows no
messages and no tokenizer.
"""

import datetime
import functools
import json
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import escape

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.budget import Budget, check_size
from vishwamai.text.marks import Marks

MAX_TEMPLATE = 128_000
FILTERS = frozenset(
    "abs attr capitalize count d default dictsort e escape first float format groupby indent int items join last "
    "length list lower map max min reject rejectattr replace reverse round safe select selectattr sort string sum "
    "title tojson trim unique upper".split()
)
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold count endswith find format format_map index isalnum isalpha isdecimal isdigit islower "
        "isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper".split()
    ),
    dict: frozenset("copy get items keys values".split()),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
}


class TemplateRefusal(TemplateError):
    """What a template says by `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks the assistant's words for training; here its body alone."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Generator(CodeGenerator):
    """Has `~` and every loop's items go through the environment, and computes nothing ahead of a render."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, (nodes.Const, nodes.TemplateData)):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.write("str(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        paid = nodes.EnvironmentAttribute("paid", lineno=node.lineno)
        node.iter = nodes.Call(paid, [node.iter], [], None, None, lineno=node.lineno)
        super().visit_For(node, frame)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one render, with its marks and its budget."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, marks: Marks, now: datetime.datetime | None = None):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _Generation],
            optimized=False,
            cache_size=0,
        )
        self._marks = marks
        self._budget = Budget()
        self.filters = {name: self._watched(name, run) for name, run in self.filters.items() if name in FILTERS}
        self.filters["tojson"] = self._watched("tojson", self._to_json)
        self.filters["e"] = self.filters["escape"] = self._watched("escape", self._escape)
        del self.globals["lipsum"]
        self.globals.update(
            dict=lambda *args, **values: dict(*args, **values),
            raise_exception=_refuse,
            strftime_now=lambda form: (now or datetime.datetime.now()).strftime(form),
        )

    def paid(self, items: Any) -> Any:
        """A loop's items, once the budget allows for them."""
        return self._budget.spend_items(items)

    def concat(self, parts: Iterable[str]) -> str:
        """Joins what a template puts out, watching its size."""
        texts, size = [], 0
        for part in parts:
            texts.append(part)
            size += len(part)
            check_size(size)
        self._budget.spend()
        return self._marks.adopt("".join(texts))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or a macro of a template."""
        text = getattr(obj, "__self__", None)
        self._check(text, getattr(obj, "__name__", ""), (*args, *kwargs.values()))
        return self._marks.adopt(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left + right` and the like."""
        self._budget.check_operation(operator, left, right)
        self._budget.spend(left, right)
        return self._marks.adopt(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only the methods in `METHODS` for what messages are made of; Jinja's rules for its own objects."""
        for kind, names in METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return not isinstance(obj, (int, float, bytes, type)) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's safe `str.format`, but with no wide fields."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            self._check(value.__self__, "format", ())
        return wrapped

    def _check(self, text: Any, name: str, args: tuple[Any, ...]) -> None:
        if isinstance(text, str):
            self._budget.check_method(text, name, args)
        self._budget.spend(*args)

    def _watched(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that pays its way and keeps marks."""

        @functools.wraps(run)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if name == "join":  # It may be given a generator, whose items have to be counted and still be there.
                args = (args[0], list(args[1]), *args[2:])
            values = (*args, *kwargs.values())
            self._budget.check_filter(name, values[1:] if hasattr(run, "jinja_pass_arg") else values)
            self._budget.spend(*values)
            return self._marks.adopt(run(*args, **kwargs))

        return watched

    def _escape(self, value: Any) -> str:
        return self._marks.mark(str(escape(self._marks.plain(str(value)))))

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None:
            check_size(len(indent) if isinstance(indent, str) else indent, 16, "a JSON indent of {}")
        plain = self._plain(value)
        text = json.dumps(
            plain, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=False
        )
        check_size(len(text))
        return self._marks.mark(text)

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._marks.plain(value)
        if isinstance(value, dict):
            return {self._plain(key): self._plain(item) for key, item in value.items()}
        return [self._plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def render_template(source: str, variables: dict[str, Any], marks: Marks, now: datetime.datetime | None = None) -> str:
    """What the template makes of the variables, marks and all.

    Raises `TokenizerError` for a template that is too large, broken, forbidden or too dear, `InputError` where the
    template itself refuses the messages.
    """
    if len(source) > MAX_TEMPLATE:
        raise TokenizerError(f"the chat template has {len(source):,} characters; {MAX_TEMPLATE:,} are allowed")
    try:
        sandbox = Sandbox(marks, now)
        return Template.from_code(sandbox, _compiled(source), sandbox.make_globals(None)).render(variables)
    except TemplateRefusal as error:
        raise InputError(f"the chat template refuses the messages: {marks.plain(str(error))}") from None
    except (TokenizerError, InputError):
        raise
    except SecurityError as error:
        raise TokenizerError(f"the chat template does what it may not: {marks.plain(str(error))}") from None
    except Exception as error:
        raise TokenizerError(f"the chat template failed: {type(error).__name__}: {marks.plain(str(error))}") from None


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> CodeType:
    return Sandbox(Marks()).compile(source)


def _refuse(message: str) -> None:
    raise TemplateRefusal(message)
