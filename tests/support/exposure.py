"""What can be seen of an exception."""

from __future__ import annotations

import pickle
import traceback

__all__ = ["shown"]


def shown(error: BaseException) -> str:
    """Return all that a log, a traceback, a debugger or a pickle shows of an error."""
    links = []
    link: BaseException | None = error
    while link is not None:
        links.append(f"{link!r} {link} {vars(link)}")
        link = link.__cause__ or link.__context__
    return "\n".join(
        [*links, "".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
    )
