"""Acme's text generator for rigging."""

from acme_rigging._generator import AcmeGenerator

__all__ = ["AcmeGenerator"]
