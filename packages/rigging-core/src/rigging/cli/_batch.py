"""`rigging batch`: many items out of a file, their results in another."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rigging._scheduler import connections
from rigging.cli._exits import ExitCode, UsageError
from rigging.cli._generators import make, opening
from rigging.cli._inputs import Inputs
from rigging.cli._options import AsJson, Complete, Identifier, Modules, System
from rigging.cli._output import Output
from rigging.cli._progress import Display, duration
from rigging.cli._records import as_line, record
from rigging.cli._report import report
from rigging.cli._tally import Tally
from rigging.plugins import manager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["batch"]


def batch(
    identifier: Identifier,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help='One object a line: {"prompt": …} or {"messages": […]}, and if wanted an id, '
            "params and metadata. '-' is stdin.",
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT.jsonl",
            help="The results, in the order of IN.",
            dir_okay=False,
        ),
    ],
    system: System = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="A field or parameter, as in an identifier. May be repeated.",
            show_default=False,
        ),
    ] = None,
    complete: Complete = False,
    on_failed: Annotated[
        Literal["include", "skip", "raise"],
        typer.Option(help="Failed items stand in OUT, are left out, or end the batch."),
    ] = "include",
    limit: Annotated[
        int | None, typer.Option(help="Only the first so many.", min=1, show_default=False)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Items in progress at once; by default as many as the generator has connections.",
            min=1,
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keeps what is finished; OUT.jsonl.checkpoint by default. The same command goes "
            "on from there.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write a page with charts.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """Answer all items of a file; run it again to go on where it stopped."""
    messages = opening(system, complete=complete)
    generator = make(identifier, options)
    checkpoint = checkpoint or out.with_name(f"{out.name}.checkpoint")
    _check_files(source, out, checkpoint, page)
    pipeline: Any = generator.complete("") if complete else generator.chat(messages)
    pipeline = pipeline.catch(Exception)  # whatever a generator raises is its item's failure
    tally = Tally()
    with ExitStack() as stack:
        inputs = Inputs(_file(source, stack), limit=limit, complete=complete)
        total = inputs.count()  # and nothing is sent if one of them is wrong
        output = stack.enter_context(Output(out))
        stack.enter_context(manager.register(tally, "rigging batch"))
        display = stack.enter_context(Display(tally, total))
        results = _results(
            pipeline,
            inputs,
            on_failed="raise" if on_failed == "raise" else "include",
            # More than it has connections would wait, and look slow.
            window=_window(window or connections(generator), total),
            checkpoint=checkpoint,
        )
        try:
            asyncio.run(_write(results, output, tally, display, skips=on_failed == "skip"))
        except KeyboardInterrupt:
            tally.end()
            print(
                f"\nrigging: interrupted; {tally.finished:,} of {total:,} are finished and kept in "
                f"{checkpoint}: the same command goes on from there",
                file=sys.stderr,
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        tally.end()
        output.finish()
    print(as_line(tally.facts()) if as_json else _summary(tally, out))
    if page is not None:
        page.write_text(report(generator.to_identifier(), tally), encoding="utf-8")
        print(f"rigging: charts are in {page}", file=sys.stderr)
    if tally.failed:
        raise typer.Exit(ExitCode.PARTIAL if tally.finished else ExitCode.FAILED)


def _check_files(source: Path, out: Path, checkpoint: Path, page: Path | None) -> None:
    """Refuse to read and write the same file, or to write where nothing can be."""
    written = [path.resolve() for path in (out, checkpoint, page) if path is not None]
    if len({*written, source.resolve()}) <= len(written):
        raise UsageError("IN, OUT, the checkpoint and the report are files of their own")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise UsageError(f"{out} is no plain file: OUT is replaced when it is complete")
    for path in written:
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"{path} cannot be written: there is no right to")


def _file(source: Path, stack: ExitStack) -> Path:
    """Return the file to read: a pipe is copied into one, because it is read twice."""
    if source.is_file():
        return source
    if source.is_dir() or not (str(source) == "-" or source.exists()):
        raise UsageError(f"there is no file {source}")
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rigging-"))
    copied = Path(folder) / "pipe"
    pipe = sys.stdin.buffer if str(source) == "-" else stack.enter_context(source.open("rb"))
    with copied.open("wb") as file:
        shutil.copyfileobj(pipe, file)
    return copied


def _window(wanted: int | None, total: int) -> int | None:
    """Return how many items are in progress at once: no more than there are."""
    return None if wanted is None else min(wanted, max(total, 1))


def _results(pipeline: Any, inputs: Inputs, **options: Any) -> AsyncIterator[Any]:
    lines, params, notes = itertools.tee(inputs, 3)
    return pipeline.iter_batch(  # type: ignore[no-any-return]
        (line.input for line in lines),
        params=(line.params for line in params),
        metadata=(
            {"number": number, "id": line.name, "metadata": line.metadata}
            for number, line in enumerate(notes)
        ),
        **options,
    )


async def _write(
    results: AsyncIterator[Any], output: Output, tally: Tally, display: Display, *, skips: bool
) -> None:
    async for item in results:
        tally.add(item)
        display.update()
        if item.failed and skips:
            continue
        notes = item.metadata
        line = {"id": notes["id"], **record(item)}
        if notes["metadata"] is not None:
            line["metadata"] = notes["metadata"]
        output.put(notes["number"], line)


def _summary(tally: Tally, out: Path) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in tally.failures.most_common())
    lines = [
        f"{tally.items:,} item{'s' * (tally.items != 1)}: {tally.finished:,} answered"
        + (f", {tally.kept:,} of them kept from before" if tally.kept else "")
        + (f"; {tally.failed:,} failed ({kinds})" if tally.failed else ""),
        f"{duration(tally.elapsed_s)}, {tally.requests_per_s:,.1f} requests/s; tokens: "
        f"{tally.input_tokens:,} in, {tally.output_tokens:,} out, {tally.tokens_per_s:,.0f}/s",
    ]
    if tally.latencies.total:
        lines.append(f"latency: {tally.latencies}")
    lines.append(f"written: {out}")
    return "\n".join(lines)
