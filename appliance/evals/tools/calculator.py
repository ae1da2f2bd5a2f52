"""`calculator`: exact arithmetic on fractions, in which no expression is long and no number large.

Expressions are read by Python's own parser and evaluated node by node; there are no names, calls, or exponents in
numbers. What is not a whole number is told with twelve significant digits.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Final, Literal

from pydantic import Field

from appliance.evals.tools.tool import Arguments, Function, FunctionName, ToolError, ToolSpec, World, arguments
from attest.canonical import Model

MAX_CHARS = 200
MAX_BITS = 1024
"""Of a numerator or denominator."""
MAX_EXPONENT = 64
EXPRESSION: Final = re.compile(r"[0-9.+\-*/()% ]+")
SMALL: Final = Decimal("0.000001")
"""Below it a number is told with an exponent."""
DIGITS: Final = Context(prec=12, rounding=ROUND_HALF_EVEN, Emin=-400, Emax=400)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise ToolError(f"expected a whole exponent of at most {MAX_EXPONENT}")
    return Fraction(base ** int(exponent))


OPERATORS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}


class Calculator(ToolSpec):
    """Its settings."""

    tool: Literal["calculator"]
    """Which tool."""
    name: FunctionName = "calculator"
    """How the model calls it."""
    takes: Literal["expression", "operands"] = "expression"
    """One `expression`, or two numbers `a` and `b` with `op` between them."""

    def functions(self) -> tuple[Function, ...]:
        """One function."""
        if self.takes == "expression":
            description = "Evaluates an arithmetic expression with + - * / // % ** and parentheses."
            return (Function(self.name, description, EXPRESSION_SCHEMA, _expression),)
        return (Function(self.name, "Calculates a op b.", OPERANDS_SCHEMA, _operands),)


class Expression(Model):
    """The arguments with one expression."""

    expression: str = Field(min_length=1, max_length=MAX_CHARS)
    """What is to be evaluated."""


class Operands(Model):
    """The arguments with two numbers."""

    a: int | float
    """The left number."""
    b: int | float
    """The right number."""
    op: Literal["+", "-", "*", "/"]
    """What is done with them."""


EXPRESSION_SCHEMA: Final = {
    "type": "object",
    "properties": {"expression": {"type": "string", "maxLength": MAX_CHARS}},
    "required": ["expression"],
}
OPERANDS_SCHEMA: Final = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}, "op": {"enum": ["+", "-", "*", "/"]}},
    "required": ["a", "b", "op"],
}


def evaluate(expression: str) -> str:
    """The value. Raises `ToolError`."""
    if len(expression) > MAX_CHARS or not EXPRESSION.fullmatch(expression):
        raise ToolError(f"expected at most {MAX_CHARS} characters, digits and + - * / % ( ) . alone")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _told(_value(tree.body, expression.strip()))
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, ToolError):
            raise
        raise ToolError("the expression cannot be read") from None
    except ZeroDivisionError:
        raise ToolError("division by zero") from None


def _expression(given: Arguments, _world: World) -> str:
    return evaluate(arguments(Expression, given).expression)


def _operands(given: Arguments, _world: World) -> str:
    found = arguments(Operands, given)
    operator = {"+": ast.Add, "-": ast.Sub, "*": ast.Mult, "/": ast.Div}[found.op]
    try:
        return _told(_bounded(OPERATORS[operator](_bounded(Fraction(found.a)), _bounded(Fraction(found.b)))))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None


def _value(node: ast.expr, source: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(Fraction(ast.get_source_segment(source, node) or "0"))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand, source)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return _bounded(OPERATORS[type(node.op)](_value(node.left, source), _value(node.right, source)))
    raise ToolError("expected numbers and + - * / // % ** alone")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolError("the number is too large")
    return value


def _told(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    digits = DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator))
    if abs(digits) < SMALL:
        return f"{digits:e}"
    told = f"{digits:f}"
    return told.rstrip("0").rstrip(".") if "." in told else told
