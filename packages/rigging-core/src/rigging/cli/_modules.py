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
        UsageError: If it is no Python file, has the name of another module, or raises something.
    """
    name, path = path.stem, path.resolve()
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or "." in name:
        raise UsageError(f"--import {path}: it takes a Python file, NAME.py, without other dots")
    known = importlib.util.find_spec(name)
    if known is not None and known.origin != spec.origin:
        where = known.origin or "a folder"
        raise UsageError(f"--import {path}: there is a module {name} already, {where}: rename one")
    if name in sys.modules:
        return
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            f"--import {path}: {type(error).__name__}: {error}. It takes a file that calls "
            f"rigging.register_generator()."
        ) from error
