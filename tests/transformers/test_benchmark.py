"""The benchmark loses nothing of what it has measured, and does not wait for ever."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import transformers_engine as benchmark

if TYPE_CHECKING:
    from pathlib import Path

    from rigging_transformers import TransformersGenerator
    from tests.transformers.conftest import Reference

OPTIONS = argparse.Namespace(gpu=False, memory_of=None)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small one in place of that for the CPU, whose programs need no memory to speak of."""
    small = dataclasses.replace(
        benchmark.CPU,
        shape={**benchmark.CPU.shape, "hidden_size": 32, "num_hidden_layers": 1},
        prompts=4,
        alone=2,
        sampled=4,
        seeded=2,
        sizes=(2, 4),
        memory_sizes=(2,),
        rounds=1,
        results=tmp_path / "RESULTS.md",
    )
    monkeypatch.setattr(benchmark, "CPU", small)
    monkeypatch.setattr(benchmark, "peak_memory", lambda *_: (100.0, 0.0))
    monkeypatch.setattr(benchmark.torch, "set_num_threads", lambda _: None)
    return small


def test_a_program_that_takes_no_memory_is_no_division_by_zero(setting: Any) -> None:
    benchmark.main(OPTIONS)

    text = setting.results.read_text(encoding="utf-8")
    assert "\n| sampled, each with a seed | " in text
    assert "\n\n| compared | | to reach |\n" in text
    assert "\n| peak memory beside by hand, 2 | 1.00 | ≤ 1.2 |\n" in text
    assert "what it rose by" not in text


def test_what_was_measured_is_written_before_it_is_compared(
    setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such figures")

    monkeypatch.setattr(benchmark, "_compared_memory", fail)

    with pytest.raises(RuntimeError, match="no such figures"):
        benchmark.main(OPTIONS)

    assert "\n| one by one | " in setting.results.read_text(encoding="utf-8")


def test_a_stream_waits_for_no_batch_that_has_failed(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("broken")

    fails = pytest.raises(RuntimeError, match=r"ran for 0 steps only: .*broken")
    with reference.model.register_forward_pre_hook(fail), fails:
        benchmark.steps_to_first_token(borrowing, reference.model, ["one"])
