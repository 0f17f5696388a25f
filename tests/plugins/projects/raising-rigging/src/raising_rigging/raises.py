"""Raises at import, as code does that meets a version it was not written for."""

raise RuntimeError("the engine's licence has expired")
