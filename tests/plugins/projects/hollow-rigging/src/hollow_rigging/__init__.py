"""Names a module, and a class, that do not exist."""
