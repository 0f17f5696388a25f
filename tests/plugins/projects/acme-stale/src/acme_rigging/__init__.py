"""The release before the first stable one: forgotten in a folder on sys.path."""

from __future__ import annotations

from rigging import Generator


class AcmeGenerator(Generator):
    whisper: bool = False
