"""Runs cells of code as a notebook does, and prints as JSON what came of each.

A script for an interpreter in which pytest is not installed: `Environment.cells` starts
it, with a JSON list of cells on its standard input.
"""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import sys
from typing import Any, Final

_LOGS: Final[list[str]] = []


class _Recorder(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _LOGS.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def main() -> None:
    logging.getLogger().addHandler(_Recorder())
    namespace: dict[str, Any] = {"asyncio": asyncio, "logging": logging}
    exec("import rigging as rg", namespace)  # noqa: S102 (in the interpreter made for it)
    outcomes = [_outcome(cell, namespace) for cell in json.load(sys.stdin)]
    report = {"outcomes": outcomes, "modules": sorted(sys.modules), "logs": _LOGS}
    # Not `print`: a cell may have replaced or redirected what that writes to.
    sys.__stdout__.write(json.dumps(report, default=repr))


def _outcome(cell: str, namespace: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": _value(cell, namespace)}
    except Exception as error:  # noqa: BLE001 (any failure is an outcome)
        cause = error.__cause__
        return {
            "name": type(error).__name__,
            "bases": [base.__name__ for base in type(error).__mro__],
            "text": str(error),
            "facts": vars(error),
            "cause": None if cause is None else f"{type(cause).__name__}: {cause}",
        }


def _value(cell: str, namespace: dict[str, Any]) -> Any:
    module = ast.parse(cell)
    last = module.body.pop() if isinstance(module.body[-1], ast.Expr) else None
    exec(compile(module, "<cell>", "exec"), namespace)  # noqa: S102
    if last is None:
        return None
    expression = compile(ast.Expression(last.value), "<cell>", "eval")
    return eval(expression, namespace)  # noqa: S307


if __name__ == "__main__":
    main()
