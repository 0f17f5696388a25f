"""Frames of the stack that an error holds on to."""

from __future__ import annotations

__all__ = ["drop_frames"]


def drop_frames(error: BaseException) -> None:
    """Let go of the frames in which an error and its causes were raised.

    They hold a model, or half of one, for as long as the caller keeps the error. A new
    traceback begins where it is raised again.
    """
    found = [error]
    for link in found:  # grows on the way
        link.__traceback__ = None
        linked = (link.__cause__, link.__context__)
        found += [one for one in linked if one is not None and one not in found]
