"""The one Jinja sandbox: of suites' templates, and of the chat templates that models carry. Both may be hostile.

What a template prints is data, and a function of its input: nothing random, no clock, no address of this process,
nothing that UTF-8 cannot carry. What it costs is bounded, in time and in memory, by counting (`appliance.budget`):
the template's syntax tree is rewritten so that every loop and every macro counts its body, and every operation that
takes time or makes something goes through this environment, which counts operands before and results after it. What
is not known here to be harmless - filters, tests, methods, functions - does not exist.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import types
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from jinja2 import Template, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Joiner, Namespace

from appliance.budget import Budget, Exceeded
from appliance.template_syntax import Counting, Generation

MAX_SOURCE_CHARS = 1 << 16
MAX_SOURCE_PARTS = 5000
MAX_WIDTH = 1000
MAX_INDENT = 16


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        _words("""
        capitalize casefold count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace
        istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit
        rstrip split splitlines startswith strip swapcase title upper""")
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"cycle", "changed"}),
    Cycler: frozenset({"next", "reset"}),
}
"""Methods that templates may call. Those that make something longer than their operands are bounded below."""
FREE_FILTERS = ("count", "d", "default", "first", "items", "last", "length")
"""They look at one part of their operand."""
OTHER_FILTERS = _words("""
    abs batch capitalize center dictsort float int join list lower map max min reject rejectattr replace
    reverse round select selectattr slice sort string sum title trim truncate unique upper wordcount""")
WIDTHS = ("batch", "center", "round", "slice", "truncate")
"""Filters whose numbers say how much to make."""
PER_ITEM = _words("dictsort map max min reject rejectattr select selectattr sort sum unique")
"""Filters that do more with each item than look at it."""
STEPS_PER_ITEM = 4
FREE_TESTS = _words("boolean defined false float integer iterable mapping none number sequence string true undefined")
OTHER_TESTS = _words("== != < <= > >= eq equalto ge greaterthan gt in le lessthan lower lt ne sameas upper")
FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|[0-9]{0,4})\}|[{}]")
CONVERSION = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?")


class OutputError(ValueError):
    """A template printed what is not data."""


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment in which nothing reaches out, and everything is counted."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, **options: Any) -> None:
        extensions = [LoopControlExtension, Generation]
        super().__init__(finalize=_printed, optimized=False, extensions=extensions, **options)
        self.budget = Budget()
        del self.globals["lipsum"]
        own: dict[str, Any] = {"format": _format, "indent": _indent, "safe": str, "tojson": _tojson}
        filters: dict[str, Any] = FILTERS | own
        tests: dict[str, Any] = TESTS
        self.filters = {name: self._counted(filters[name], name, free=True) for name in FREE_FILTERS}
        self.filters |= {name: self._counted(filters[name], name) for name in (*OTHER_FILTERS, *own)}
        self.tests = {name: self._counted(tests[name], name, free=True) for name in FREE_TESTS}
        self.tests |= {name: self._counted(tests[name], name) for name in OTHER_TESTS}
        self.tests |= {"odd": _odd, "even": lambda value: not _odd(value), "divisibleby": _divisible}

    def parsed(self, source: str) -> Template:
        """A compiled template. Raises what Jinja and Python's compiler raise, which can be anything."""
        if len(source) > MAX_SOURCE_CHARS:
            raise Exceeded(f"expected a template of at most {MAX_SOURCE_CHARS} characters, found {len(source)}")
        return self.from_string(source)

    def text(self, template: Template, variables: Mapping[str, Any]) -> str:
        """What `template`, of this environment, prints. Raises what Python can raise: `Exceeded`, `OutputError`, ..."""
        self.budget = Budget()
        text = template.render(variables)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise OutputError("expected Unicode text, found a lone surrogate") from None
        return text

    # -- what Jinja calls ---------------------------------------------------------------------------------------------

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        if sum(1 for _ in source.find_all(nodes.Node)) > MAX_SOURCE_PARTS:
            raise Exceeded(f"expected a template of at most {MAX_SOURCE_PARTS} parts, found more")
        return super()._generate(Counting().visit(source), *args, **options)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` with plain fields (`{}`, `{0}`, `{name}`): no attributes, no widths."""
        if not isinstance(value, types.BuiltinMethodType) or value.__name__ != "format":
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None

        def filled(*args: Any, **kwargs: Any) -> str:
            places = iter(args)

            def field(found: re.Match[str]) -> str:
                name = found.group(1)
                if name is None:
                    raise OutputError(f"expected plain fields in a format, found {found.group()!r}")
                if not name:
                    return _printed_by(self.budget, next(places))
                return _printed_by(self.budget, args[int(name)] if name.isdigit() else kwargs[name])

            return FIELD.sub(field, text)

        return filled

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`; hashing anything but a scalar could take for ever."""
        return super().getitem(obj, self.key(argument))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call what may be called, counted."""
        if getattr(__obj, "__self__", None) is __self:
            return __obj(*args)
        owner = getattr(__obj, "__self__", None)
        values = [*args, *(value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars"))]
        if isinstance(__obj, Macro):
            values = [value for value in values if not isinstance(value, Namespace | Macro | LoopContext)]
        __self.budget.weigh(*values)
        if isinstance(__obj, types.BuiltinMethodType | types.MethodType) and owner is not None:
            if __obj.__name__ not in METHODS.get(type(owner), ()):
                raise SecurityError(f"expected a method that is known to be harmless, found {__obj.__name__!r}")
            if not isinstance(owner, LoopContext | Cycler):
                __self.budget.weigh(owner)
            if isinstance(owner, str):
                __self._expect_text(owner, __obj.__name__, args)
        elif not (
            isinstance(__obj, Macro | LoopContext | Joiner | Undefined | types.FunctionType)
            or __obj in (range, dict, Namespace, Cycler, Joiner)
        ):
            raise SecurityError(f"expected a function or a macro, found {type(__obj).__name__}")
        return __self._kept(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002
        """An operator, counted; numbers with numbers, texts with texts, lists with lists."""
        kinds = (_kind(left), _kind(right))
        if operator == "*" and set(kinds) in ({"text", "number"}, {"list", "number"}):
            count, of = (left, right) if kinds[0] == "number" else (right, left)
            self.budget.make(max(int(count), 0) * max(len(of), 1))
        elif operator == "%" and kinds[0] == "text":
            return self.filters["format"](left, right)
        elif operator == "**" and kinds == ("number", "number"):
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 1) > MAX_WIDTH:
                raise Exceeded("expected a power of few bits, found a larger one")
        elif kinds[0] != kinds[1] and "undefined" not in kinds:
            raise TypeError(f"expected operands of one kind for {operator}, found {kinds[0]} and {kinds[1]}")
        elif kinds[0] in ("text", "list") and operator != "+":
            raise TypeError(f"expected numbers for {operator}, found {kinds[0]}")
        return self._kept(self.binop_table[operator](left, right))

    # -- what the rewritten template calls ----------------------------------------------------------------------------

    def pace(self, steps: int, chars: int) -> bool:
        """Before every turn of a loop or macro: the parts of its body, and the characters in it."""
        self.budget.spend(steps)
        self.budget.make(chars)
        return True

    def weighed(self, value: Any) -> Any:
        """An operand of a comparison."""
        self.budget.weigh(value)
        return value

    def key(self, value: Any) -> Any:
        """A key of a dictionary: hashing a nested tuple could take for ever."""
        if not isinstance(value, str | int | float | None | Undefined):
            raise TypeError(f"expected text or a number as a key, found {type(value).__name__}")
        return value

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`."""
        return self._kept(value[start:stop:step])

    def joined(self, *values: Any) -> str:
        """The operator `~`."""
        texts = [_printed_by(self.budget, value) for value in values]
        self.budget.text(sum(map(len, texts)))
        return "".join(texts)

    def _counted(self, function: Callable[..., Any], name: str, *, free: bool = False) -> Callable[..., Any]:
        """A filter or a test whose operands (unless `free`) and result are counted."""
        passed = int(hasattr(function, "jinja_pass_arg"))

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            values = (*args[passed:], *kwargs.values())
            self.budget.spend(len(values))
            if not free:
                self.budget.weigh(*values)
            if name in PER_ITEM and values and hasattr(values[0], "__len__"):
                self.budget.spend(STEPS_PER_ITEM * len(values[0]))
            if name in WIDTHS and any(isinstance(value, int | float) and value > MAX_WIDTH for value in values[1:]):
                raise Exceeded(f"expected at most {MAX_WIDTH} as an argument of {name!r}, found more")
            if name == "join" and values:
                between = str(values[1]) if len(values) > 1 else ""
                self.budget.text(len(between) * len(values[0]) if hasattr(values[0], "__len__") else 0)
            if name == "replace" and len(values) > 2:
                self._expect_text(str(values[0]), name, (str(values[1]), str(values[2])))
            return self._kept(function(*args, **kwargs) if name not in _OWN else function(self.budget, *args, **kwargs))

        return counted

    def _expect_text(self, text: str, method: str, args: tuple[Any, ...]) -> None:
        """Count what a method of a text is about to make, where that can be longer than all its operands."""
        if method == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
            self.budget.text(len(text) + text.count(args[0]) * max(len(args[1]) - len(args[0]), 0))
        if method == "join" and args and hasattr(args[0], "__len__"):
            self.budget.text(len(text) * len(args[0]))

    def _kept(self, value: Any) -> Any:
        """A result, counted; what is made on demand is made now."""
        if isinstance(value, Iterator | ItemsView | KeysView | ValuesView):
            items = []
            for item in value:
                self.budget.spend(1)
                items.append(item)
            value = items
        self.budget.made(value)
        return value


def _kind(value: object) -> str:
    if isinstance(value, Undefined):
        return "undefined"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return "list"
    return "number" if isinstance(value, int | float) else type(value).__name__


@pass_context
def _printed(context: Context, value: object) -> str:
    """What is printed. Jinja prints constants when it compiles, unless this wants a context."""
    environment = context.environment
    assert isinstance(environment, Sandbox)
    return _printed_by(environment.budget, value)


def _printed_by(budget: Budget, value: object) -> str:
    """Data as text."""
    if not isinstance(value, str):
        budget.weigh(value)
    text = str(value)
    budget.text(len(text))
    return text


# -- filters and tests of our own; those in `_OWN` take the budget first ----------------------------------------------


def _format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> str:
    """`value % args`, with widths of at most `MAX_WIDTH`."""
    if args and kwargs:
        raise TypeError("expected arguments by place or by name, found both")
    text, _ = str(value), [_printed_by(budget, item) for item in (*args, *kwargs.values())]
    given = args[0] if len(args) == 1 and isinstance(args[0], tuple | dict) else args or kwargs
    _, chars, _ = budget.weigh(given)
    found = CONVERSION.findall(text)
    for width, precision in found:
        if "*" in (width, precision) or any(part and int(part[:9]) > MAX_WIDTH for part in (width, precision)):
            raise Exceeded(f"expected widths of at most {MAX_WIDTH} in a format, found a larger one")
    budget.text(len(text) + sum(chars + 400 + int(width or 0) + int(precision or 0) for width, precision in found))
    return text % given


def _indent(budget: Budget, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's `indent`, counted before it is made."""
    text = str(value)
    space = len(width) if isinstance(width, str) else width
    budget.text(len(text) + (text.count("\n") + 2) * space)
    return str(FILTERS["indent"](text, width, first, blank))


def _tojson(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: Unicode and markup stay as they are."""
    parts, chars, depth = budget.weigh(value)
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= MAX_INDENT):
        raise Exceeded(f"expected an indent of 0 to {MAX_INDENT}, found {indent!r}"[:200])
    longest = max((len(str(item)) for item in separators), default=0) if isinstance(separators, tuple | list) else 2
    budget.make(chars + parts * (longest + (indent or 0) * depth))
    return json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=None if separators is None else tuple(separators),
        sort_keys=bool(sort_keys),
    )


_OWN = ("format", "indent", "tojson")


def _odd(value: Any) -> bool:
    return _divisible(value, 2) is False


def _divisible(value: Any, by: Any) -> bool:
    """Text has an operator `%` too, which formats."""
    if not (isinstance(value, int | float) and isinstance(by, int | float)):
        raise TypeError(f"expected numbers, found {type(value).__name__} and {type(by).__name__}")
    return bool(operator.mod(value, by) == 0)
