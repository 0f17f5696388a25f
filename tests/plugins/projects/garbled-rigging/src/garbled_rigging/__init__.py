"""A good class; the tests garble the `entry_points.txt` that leads to it."""

from __future__ import annotations

from rigging import Generator


class GarbledGenerator(Generator):
    pass
