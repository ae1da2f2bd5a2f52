"""What is added to Jinja's language, and how a template's syntax tree is made to count what it does.

Every turn of a loop and every call of a macro begins with `environment.pace`; slices, `~`, comparisons and keys go
through the environment. Refused: whatever leads to another template.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

FOREIGN = (nodes.Block, nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include, nodes.EvalContextModifier)


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the model said, for training; it prints its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Counting(NodeTransformer):
    """Puts the counting into a template's tree."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Every node; refuses those that lead to other templates."""
        if isinstance(node, FOREIGN):
            raise TemplateSyntaxError(f"{type(node).__name__} is not known here", node.lineno)
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """A loop counts every turn, and every item that its condition drops."""
        turn = _pace(node.body)
        drop = None if node.test is None else _pace([node.test])
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        if drop is not None and node.test is not None:
            node.test = nodes.And(drop, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:  # noqa: N802
        """A macro counts every call."""
        turn = _pace(node.body)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        return node

    visit_CallBlock = visit_Macro  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """A slice makes something new."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        parts = (node.arg.start, node.arg.stop, node.arg.step)
        return _call("cut", node.node, *(part or nodes.Const(None, lineno=node.lineno) for part in parts))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b`."""
        self.generic_visit(node)
        return _call("joined", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """A comparison looks at all of its operands."""
        self.generic_visit(node)
        node.expr = _call("weighed", node.expr)
        for operand in node.ops:
            operand.expr = _call("weighed", operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        """A key of a dictionary is hashed."""
        self.generic_visit(node)
        node.key = _call("key", node.key)
        return node


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    line = args[0].lineno
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, list(args), [], None, None, lineno=line)


def _pace(body: list[Any]) -> nodes.Call:
    """The call that counts one turn through `body`."""
    found = [part for node in body for part in (node, *node.find_all(nodes.Node))]
    chars = sum(len(part.data) for part in found if isinstance(part, nodes.TemplateData))
    line = body[0].lineno if body else 1
    return _call("pace", nodes.Const(len(found) + 1, lineno=line), nodes.Const(chars, lineno=line))
