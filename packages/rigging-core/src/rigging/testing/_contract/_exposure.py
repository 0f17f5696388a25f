"""All that can be seen of a generator, and of an exception."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.generator import Generator

__all__ = ["shown_of_error", "shown_of_generator"]


def shown_of_generator(generator: Generator) -> Mapping[str, str]:
    """Return what a generator shows of itself, by how."""
    return {
        "repr": repr(generator),
        "str": str(generator),
        "dump": repr(generator.model_dump()),
        "JSON": generator.model_dump_json(),
        "identifier": generator.to_identifier(),
        "pipeline's repr": repr(generator.chat("Hi")),
        "pickle": repr(pickle.dumps(generator)),
    }


def shown_of_error(error: BaseException) -> Mapping[str, str]:
    """Return what a log, a traceback, a debugger or a pickle shows of an error, by how."""
    links = []
    link: BaseException | None = error
    while link is not None:
        links.append(f"{link!r} {link} {vars(link)}")
        link = link.__cause__ or link.__context__
    try:
        pickled = repr(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (another rule is about that)
        pickled = ""
    return {
        "text and attributes": "\n".join(links),
        "traceback": "".join(traceback.format_exception(error)),
        "pickle": pickled,
    }
