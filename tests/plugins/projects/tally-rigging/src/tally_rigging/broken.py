"""A plugin whose licence has expired."""

raise RuntimeError("the tally's licence has expired")
