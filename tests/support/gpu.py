"""Hooks of pytest for tests marked `gpu`: a suite's conftest imports them."""

from __future__ import annotations

import pytest

__all__ = ["pytest_runtest_setup", "pytest_terminal_summary"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what needs a GPU and had none: it is not passed, it is not run."""
    skipped = terminalreporter.getreports("skipped")
    names = [report.nodeid for report in skipped if "gpu" in report.keywords]
    if names:
        terminalreporter.section(f"not run, no GPU here: {len(names)}")
        for name in names:
            terminalreporter.line(name)
