"""Memory that does not do for a model: what is needed, what there is, and never a traceback."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import public_models
from nota_cli.errors import NotaError
from nota_cli.models import memory
from nota_cli.models.build import build
from nota_cli.models.memory import memory_explained, memory_room, memory_there, out_of_memory
from nota_cli.models.parts import Part
from nota_cli.recipe.load import load_any_recipe


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


LIMITED = """
import json, resource, sys
from pathlib import Path
import nota_cli.api, nota_cli.efficiency.measure, nota_cli.models.families.salmonn_build, nota_cli.quantization.dummy
from nota_cli.cli import main
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
for command in json.loads(sys.argv[1]):
    sys.argv = ["nota", *command]
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code
    print(f"exit status {status}", file=sys.stderr, flush=True)
"""


def test_a_model_that_does_not_fit_is_explained_by_its_parts(tiny_recipe: Path, clips: Path, tmp_path: Path) -> None:
    """In a fresh process: the fork of one with threads may hang where memory is short."""
    large = ["--set", "decoder.config.intermediate_size=400000", "--set", "decoder.config.hidden_size=512"]
    commands = [
        ["efficiency", "--recipe", tiny_recipe, *large],
        ["infer", "--recipe", tiny_recipe, *large, "--annotation", clips / "all.json", "--out", tmp_path / "o.csv"],
        ["chat", clips / "audio" / "c0.wav", "--recipe", tiny_recipe, "--prompt", "/asr", *large],
    ]
    given = json.dumps([[str(word) for word in (*command, "--load-format", "dummy")] for command in commands])
    done = subprocess.run([sys.executable, "-c", LIMITED, given], capture_output=True, text=True, check=True)
    said = done.stderr.split("exit status 1\n")
    assert len(said) == len(commands) + 1, done.stderr
    for each in said[:-1]:
        assert "out of memory on cpu while loading recipe random" in each
        assert "The largest part is the decoder" in each
        assert "limit (ulimit -v)" in each
        assert "Traceback" not in each


def test_an_allocator_that_fails_is_explained_after_what_was_built_is_freed() -> None:
    parts = [Part("speech_encoder", 10, {"float32": 40}), Part("decoder", 100, {"float32": 400})]
    largest = pytest.raises(NotaError, match="(?s)decoder +0.0 MB.*The largest part is the decoder")
    with largest, memory_explained(lambda: parts, "cpu", "mine"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
    with pytest.raises(RuntimeError, match="other"), memory_explained(lambda: parts, "cpu", "mine"):
        raise RuntimeError("other")
    assert memory_there("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the memory that the system tells of, in bytes, and a container's limit with what is used of it."""
    folder = tmp_path / "machine"
    folder.mkdir()
    monkeypatch.setattr(memory, "MEMINFO", folder / "meminfo")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (folder / "memory.max", folder / "v1" / "memory.limit_in_bytes"))

    def tell(free: int, limit: str = "max", used: int = 0, cache: int = 0) -> None:
        (folder / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {free // 1024} kB\nSwapFree: 0 kB\n")
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\nfile {cache}\n")

    return tell


def test_room_is_the_systems_or_what_the_container_leaves(machine: Callable[..., None]) -> None:
    machine(free=2**30)
    assert memory_room("cpu") == 2**30
    machine(free=2**30, limit=str(2**20), used=2**19, cache=2**18)
    assert memory_room("cpu") == 2**19 + 2**18  # what is cached of files can be given back
    machine(free=2**16, limit=str(2**20))
    assert memory_room("cpu") == 2**16


@pytest.mark.parametrize("family", ["transformers", "salmonn"])
def test_a_model_larger_than_the_memory_is_refused_before_its_weights_are_read(
    family: str,
    nota: Callable[..., int],
    machine: Callable[..., None],
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = "tiny"
    if family == "transformers":
        folder = public_models.make("whisper", tmp_path / "model")
        recipe = str(tmp_path / "mine.yaml")
        Path(recipe).write_text(f"family: transformers\nmodel: {{path: {folder}}}\n")
    needed = sum(part.bytes for part in build(load_any_recipe(recipe), "meta", "convert", load_format="dummy").parts())
    if family == "transformers":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(b"these would not load".ljust(len(whole)))
    arguments = ["infer", "--recipe", recipe, "--annotation", clips / "asr.json", "--audio-root", clips]
    machine(free=needed - 2**12)
    assert nota(*arguments, "--out", tmp_path / "o.csv") == 1
    message = " ".join(capsys.readouterr().err.split())
    figures = re.search(r"its weights alone need ([\d.]+) MB, and ([\d.]+) MB are free. Nothing was loaded", message)
    assert figures is not None, message
    assert abs(float(figures[1]) - needed / 1e6) < 0.1
    assert "Give it a smaller dtype or quantize it" in message
    assert "--device" in message
    if family == "transformers":
        (folder / "model.safetensors").write_bytes(whole)
    machine(free=needed + 2**12)
    assert nota(*arguments, "--out", tmp_path / "o.csv") == 0
