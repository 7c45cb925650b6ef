"""Memory that does not do for a model: what is needed, what there is, and never a traceback."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from nota_cli.errors import NotaError
from nota_cli.models.memory import memory_explained, memory_there, out_of_memory
from nota_cli.models.parts import Part


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (OSError(2, "No such file"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_apart(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
    wrapped = NotaError("cannot read the weights")
    wrapped.__cause__ = error
    assert out_of_memory(wrapped) is expected


def test_a_model_that_does_not_fit_is_explained_by_its_parts(
    start: Callable, tiny_recipe: Path, clips: Path, tmp_path: Path
) -> None:
    def limit() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))

    large = ["--set", "decoder.config.intermediate_size=400000", "--set", "decoder.config.hidden_size=512"]
    for command in (
        ["efficiency", "--recipe", tiny_recipe, *large],
        ["infer", "--recipe", tiny_recipe, *large, "--annotation", clips / "all.json", "--out", tmp_path / "o.csv"],
        ["chat", clips / "audio" / "c0.wav", "--recipe", tiny_recipe, "--prompt", "/asr", *large],
    ):
        process = start(*command, "--load-format", "dummy", prepare=limit)
        assert process.wait() == 1, process.said()
        said = process.said()
        assert "out of memory on cpu while loading recipe random" in said
        assert "The largest part is the decoder" in said
        assert "limit (ulimit -v)" in said
        assert "Traceback" not in said


def test_an_allocator_that_fails_is_explained_after_what_was_built_is_freed() -> None:
    parts = [Part("speech_encoder", 10, {"float32": 40}), Part("decoder", 100, {"float32": 400})]
    largest = pytest.raises(NotaError, match="(?s)decoder +0.0 MB.*The largest part is the decoder")
    with largest, memory_explained(lambda: parts, "cpu", "mine"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
    with pytest.raises(RuntimeError, match="other"), memory_explained(lambda: parts, "cpu", "mine"):
        raise RuntimeError("other")
    assert memory_there("cpu")
