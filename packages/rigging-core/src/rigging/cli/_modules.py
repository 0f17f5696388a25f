"""Files of Python that are imported by their path, for the generators that they register."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from rigging.cli._exits import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["import_file"]


def import_file(path: Path) -> None:
    """Import a file by its name: pickles find its classes, and it finds what lies beside it.

    Raises:
        UsageError: If it is no Python file, or raises something.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--import {path}: it takes a Python file, whose name ends with .py")
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"--import {path}: {type(error).__name__}: {error}. It takes a file that calls "
            f"rigging.register_generator()."
        ) from error
