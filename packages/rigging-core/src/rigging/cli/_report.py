"""One page about a batch, with its charts: HTML that needs nothing beside it."""

from __future__ import annotations

import html
from string import Template
from typing import TYPE_CHECKING, Final

from rigging.cli._progress import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.cli._tally import Tally

__all__ = ["report"]

_PAGE: Final = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --bar: #4c78a8; --bad: #c0504d; --line: #8886; }
  body { font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
  h2 { font-size: 1.1rem; margin-top: 2rem; }
  table { border-collapse: collapse; }
  td, th { padding: .2rem 1.5rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }
  td { font-variant-numeric: tabular-nums; }
  svg { width: 100%; height: auto; }
  svg rect { fill: var(--bar); }
  svg .bad rect { fill: var(--bad); }
  svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
</style>
<h1>$title</h1>
<table>$facts</table>
$charts
</html>
""")

_WIDTH: Final = 900
_HEIGHT: Final = 180
_WIDEST: Final = 200  # of a bar with the gap beside it
_LABELS: Final = 8  # below a chart, at most


def report(identifier: str, tally: Tally) -> str:
    """Return the page.

    Args:
        identifier: Of the generator, without its key.
        tally: What the batch amounts to.
    """
    facts = {
        "items": f"{tally.items:,}",
        "answered": f"{tally.finished:,}, of which {tally.kept:,} were kept from before",
        "failed": f"{tally.failed:,}",
        "time": duration(tally.elapsed_s),
        "requests per second": f"{tally.requests_per_s:,.2f}",
        "tokens": f"{tally.input_tokens:,} in, {tally.output_tokens:,} out",
        "tokens generated per second": f"{tally.tokens_per_s:,.1f}",
        "latency": str(tally.latencies),
    }
    charts = [
        _chart(
            "Latency of requests",
            [(f"{start:.3g} s", count) for start, count in tally.latencies.bars(40)],
        ),
        _chart(
            "Requests answered per second",
            [(duration(at), rate) for at, rate in tally.timeline],
        ),
        _chart("Failures", tally.failures.most_common(), kind="bad"),
    ]
    rows = (
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return _PAGE.substitute(
        title=html.escape(f"Batch with {identifier}"), facts="".join(rows), charts="".join(charts)
    )


def _chart(title: str, bars: Sequence[tuple[str, float]], *, kind: str = "") -> str:
    """Draw bars with labels below; nothing where there are none."""
    if not bars:
        return ""
    most = max(value for _, value in bars) or 1
    step = min(_WIDTH / len(bars), _WIDEST)
    every = -(-len(bars) // _LABELS)
    drawn = []
    for number, (label, value) in enumerate(bars):
        height = _HEIGHT * value / most
        text = html.escape(label)
        drawn.append(
            f'<rect x="{number * step + 1:.1f}" y="{_HEIGHT - height + 16:.1f}" '
            f'width="{max(step - 2, 1):.1f}" height="{height:.1f}">'
            f"<title>{text}: {value:,.4g}</title></rect>"
        )
        if number % every == 0:
            drawn.append(f'<text x="{number * step + 1:.1f}" y="{_HEIGHT + 32}">{text}</text>')
    return (
        f"<h2>{html.escape(title)}</h2>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 40}" role="img" aria-label="{html.escape(title)}">'
        f'<text x="0" y="11">{most:,.4g}</text><g class="{kind}">{"".join(drawn)}</g></svg>'
    )
