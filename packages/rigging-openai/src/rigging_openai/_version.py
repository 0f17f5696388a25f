"""The version of the distribution, read by hatchling when it builds."""

__version__ = "0.1.0"
