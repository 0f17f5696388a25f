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
    """Name what needs a GPU and was not run, and why: it is not passed."""
    skipped = terminalreporter.getreports("skipped")
    reports = [report for report in skipped if "gpu" in report.keywords]
    for why in dict.fromkeys(map(_why, reports)):
        names = [report.nodeid for report in reports if _why(report) == why]
        terminalreporter.section(f"not run, {why}: {len(names)}")
        for name in names:
            terminalreporter.line(name)


def _why(report: pytest.TestReport) -> str:
    # Of what is skipped, pytest keeps the place and the reason.
    return str(report.longrepr[2]).removeprefix("Skipped: ")  # type: ignore[index]
