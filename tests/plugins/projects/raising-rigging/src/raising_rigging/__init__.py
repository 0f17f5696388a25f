"""Two modules, either of which raises when it is imported."""
