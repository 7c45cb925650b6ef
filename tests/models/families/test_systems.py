"""The seed systems: each team's checkpoint gives that team's own outputs, through the command line, to the number."""

import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nota_cli.data.annotation import Row, read_annotation
from nota_cli.data.row_batches import RowBatches, in_order, loader
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe

REPOSITORY = Path(__file__).resolve().parents[3]
TEAMS = ["nota", "cv03", "nlp07", "cv16"]


def closeness(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def clip_number(row: Row) -> int:
    """Figures are numbered as the recordings are."""
    return int(Path(row.path).stem[1:])


def texts_of(
    folder: Path, beams: int, batch_size: int, tmp_path: Path, recipe: Callable[..., Path], nota: Callable[..., int]
) -> list[str]:
    """What `nota infer` writes for a system's clips."""
    out = tmp_path / "out.csv"
    data = ["--annotation", folder / "manifest.json", "--audio-root", folder / "audio"]
    search = ["--set", f"generate.beams={beams}", "--set", f"generate.batch_size={batch_size}"]
    assert nota("infer", "--recipe", recipe(folder), *data, *search, "--out", out) == 0
    with out.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def expected_texts(folder: Path, beams: int) -> list[str]:
    rows = json.loads((folder / "expected.json").read_text())["rows"]
    return [row[f"text_beam{beams}"].strip() for row in rows]


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("team", TEAMS)
def test_infer_gives_the_teams_texts(
    team: str,
    beams: int,
    batch_size: int,
    golden_systems: Path,
    tmp_path: Path,
    golden_recipe: Callable[..., Path],
    nota: Callable[..., int],
) -> None:
    folder = golden_systems / team
    assert texts_of(folder, beams, batch_size, tmp_path, golden_recipe, nota) == expected_texts(folder, beams)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("team", TEAMS)
def test_the_shipped_part_of_each_system_gives_the_teams_texts(
    team: str,
    beams: int,
    batch_size: int,
    tmp_path: Path,
    golden_recipe: Callable[..., Path],
    nota: Callable[..., int],
) -> None:
    """Two clips of each system lie in the repository, so that every clone checks what the project claims."""
    folder = REPOSITORY / "tests" / "golden" / "systems" / team
    assert texts_of(folder, beams, batch_size, tmp_path, golden_recipe, nota) == expected_texts(folder, beams)


@pytest.mark.parametrize("team", TEAMS)
def test_states_embeddings_logits_and_loss_are_the_teams(
    team: str,
    golden_systems: Path,
    golden_recipe: Callable[..., Path],
    exact_fft: Callable[[], AbstractContextManager[None]],
) -> None:
    folder = golden_systems / team
    golden = load_file(folder / "golden.safetensors")
    expected = json.loads((folder / "expected.json").read_text())["rows"]
    model = load(load_recipe(str(golden_recipe(folder))), "cpu")
    rows = read_annotation(folder / "manifest.json")
    batches = RowBatches(rows, in_order(len(rows), 1), folder / "audio", model.preprocessor())
    with torch.no_grad():
        for index, batch in enumerate(loader(batches, range(len(rows)), 0)):
            clip = clip_number(rows[index])
            encoded = model.encode(batch.features)
            if f"audio_encoder{clip}" in golden:  # the figures hold it for four of the six clips
                with exact_fft():
                    exact = model.encode(batches[index].features).audio_states
                rounding = closeness(encoded.audio_states, exact)
                assert closeness(encoded.audio_states, golden[f"audio_encoder{clip}"]) < max(1e-4, 2 * rounding)
                assert rounding < 1e-3
            assert closeness(encoded.embeds, golden[f"speech_embeds{clip}"]) < 1e-4
            embeds, mask = model.prompt_embeds(batch.features, batch.queries)
            logits = model.decoder.model(inputs_embeds=embeds, attention_mask=mask).logits[:, -1]
            assert closeness(logits, golden[f"logits{clip}"]) < 1e-4
            loss, _ = model(batch.features, batch.queries, batch.texts)
            assert float(loss) == pytest.approx(expected[index]["loss"], abs=1e-4)


@pytest.mark.parametrize("team", TEAMS)
def test_a_batch_of_unequal_clips_gives_each_its_own_embeddings(
    team: str, golden_systems: Path, golden_recipe: Callable[..., Path]
) -> None:
    folder = golden_systems / team
    golden = load_file(folder / "golden.safetensors")
    model = load(load_recipe(str(golden_recipe(folder))), "cpu")
    rows = read_annotation(folder / "manifest.json")
    (batch,) = loader(RowBatches(rows, in_order(len(rows), len(rows)), folder / "audio", model.preprocessor()), [0], 0)
    with torch.no_grad():
        encoded = model.encode(batch.features)
    for index, row in enumerate(rows):
        expected = golden[f"speech_embeds{clip_number(row)}"]
        assert closeness(encoded.embeds[index : index + 1], expected) < 1e-4
