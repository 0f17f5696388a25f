from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.error import ModelNotFoundError
from rigging_vllm._source import locate

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = ("config.json", "tokenizer.json", "model.safetensors")


def directory(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    "model",
    ["name", "org/name", "org/name-1.5_b", "org/name:Q4_K_M", "org/name/file.gguf", "s3://b/k"],
)
def test_what_is_not_on_disk_is_left_to_vllm(model: str) -> None:
    assert locate(model) == model


def test_a_whole_directory_is_taken(tmp_path: Path) -> None:
    assert locate(str(directory(tmp_path, *WHOLE))) == str(tmp_path)


def test_a_gguf_file_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()

    assert locate(str(file)) == str(file)


def test_the_home_directory_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    directory(tmp_path, *WHOLE)

    assert locate("~") == str(tmp_path)


@pytest.mark.parametrize("model", ["~no-such-user-51c7/model", "a" * 300, "nul\0byte"])
def test_what_cannot_be_a_path_is_refused(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="not a path that can be read"):
        locate(model)


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "~/nowhere", "..\\x", "C:\\models\\x"])
def test_a_path_to_nothing_is_refused(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        locate(model)


@pytest.mark.parametrize("model", ["a/b/c", "two words", "org/name/"])
def test_what_is_neither_path_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no hub id either"):
        locate(model)


@pytest.mark.parametrize(
    ("there", "lacks"),
    [
        pytest.param((), "configuration", id="empty"),
        pytest.param(("config.json", "model.safetensors"), "tokenizer", id="no-tokenizer"),
        pytest.param(("config.json", "tokenizer.json"), "weights", id="no-weights"),
    ],
)
def test_a_directory_that_lacks_something_is_refused(
    tmp_path: Path, there: tuple[str, ...], lacks: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=f"the directory has no {lacks}") as caught:
        locate(str(directory(tmp_path, *there)))
    assert (caught.value.provider, caught.value.model) == ("vllm", str(tmp_path))


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = directory(tmp_path, "model.bin") / "model.bin"
    with pytest.raises(ModelNotFoundError, match=r"a directory or a \.gguf file"):
        locate(str(file))
