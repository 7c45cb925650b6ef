"""Memory that does not do for a model: what is needed, what there is, and never a traceback."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from helpers import public_models
from nota_cli.errors import NotaError
from nota_cli.models.build import build
from nota_cli.models.memory import memory_explained, memory_there, out_of_memory
from nota_cli.models.parts import Part
from nota_cli.recipe.load import load_any_recipe
from nota_cli.recipe.public import PublicRecipe


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


@pytest.fixture
def little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 100 kB free, where any file of weights is worth a look."""
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 100 kB\n")
    monkeypatch.setattr("nota_cli.models.memory.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("nota_cli.models.families.public.LARGE", 0)


@pytest.mark.usefixtures("little_memory")
def test_weights_larger_than_free_memory_are_refused_before_they_are_read(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_any_recipe(str(tiny_checkpoint))
    needed = sum(part.bytes for part in build(recipe, "meta", load_format="dummy").parts())
    monkeypatch.setattr("nota_cli.models.families.salmonn_build.load_checkpoint", never)
    with pytest.raises(NotaError, match=rf"all weights +{needed / 1e6:.1f} MB\n +free memory +0.1 MB"):
        build(recipe, purpose="run")


@pytest.mark.usefixtures("little_memory")
def test_a_public_model_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = public_models.make("whisper", tmp_path / "whisper")
    recipe = PublicRecipe(name="mine", model={"path": str(folder)})
    monkeypatch.setattr(transformers.WhisperForConditionalGeneration, "from_pretrained", never)
    with pytest.raises(NotaError, match="(?s)out of memory on cpu while loading recipe mine.*free memory +0.1 MB"):
        build(recipe, purpose="run")


def never(*arguments: object, **settings: object) -> None:
    raise AssertionError("weights were read")
