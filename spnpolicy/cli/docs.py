"""The texts that source code has about settings: the line under each field of a config."""

import ast
import inspect
import textwrap
from typing import Any


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Return the string that follows each field in the source of a dataclass and its bases; "" where there is none."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        docs |= _own_docs(base)
    return docs


def _own_docs(kind: type[Any]) -> dict[str, str]:
    definition = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(definition, ast.ClassDef), "a dataclass is defined by a class statement"
    docs: dict[str, str] = {}
    following = [*definition.body[1:], None]
    for statement, after in zip(definition.body, following, strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            docs[statement.target.id] = _text(after)
    return docs


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
