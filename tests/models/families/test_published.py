"""Published systems of SALMONN's family: from the hub's files to texts by the recipe's name, every key matched."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from helpers import published
from helpers.hub import run, small_hub
from nota_cli.errors import CheckpointError
from nota_cli.models.build import build
from nota_cli.models.checkpoint import own_state
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe

MATCHED = "0 missing, 0 unexpected"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny ones with the publishers' names, files and keys; their trained weights beside them."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    for name in ("salmonn_7b", "salmonn_13b"):
        torch.save(getattr(published, name)(root / "repositories"), root / f"{name}.pt")
    return root


@pytest.fixture
def cache(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with them, and no other place to look."""
    published.cached(repositories / "repositories", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NOTA_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def trained(recipe: Recipe) -> dict[str, torch.Tensor]:
    """What a model holds of its checkpoint, by the publishers' names, as float32."""
    model = build(recipe, purpose="convert")
    state = {name.removeprefix("connector."): tensor for name, tensor in own_state(model).items()}
    adapters = {name: tensor for name, tensor in model.decoder.model.state_dict().items() if "lora_" in name}
    state |= {f"llama_model.{name}": tensor.float() for name, tensor in adapters.items()}
    return state


@pytest.mark.parametrize(("name", "layers"), [("salmonn-7b", 2), ("salmonn-13b", 3)])
def test_every_published_weight_is_where_it_belongs(
    name: str, layers: int, repositories: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = trained(load_recipe(name))
    assert f"{len(list(published.salmonn_names(layers)))} matched, {MATCHED}" in capsys.readouterr().err
    expected = torch.load(repositories / f"{name.replace('-', '_')}.pt", weights_only=True)
    assert set(state) == set(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, rtol=1e-3, atol=1e-4, msg=key)  # adapters in half precision


def test_infer_takes_the_recipes_name_alone(
    nota: Callable[..., int], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("infer", "--recipe", "salmonn-7b", "--task", "asr") == 0
    printed = capsys.readouterr()
    assert MATCHED in printed.err
    (out,) = Path("submissions").glob("*.csv") if Path("submissions").is_dir() else Path().glob("*.csv")
    with out.open(newline="") as file:
        assert [row["testset_id"] for row in csv.DictReader(file)] == [f"test{index:04d}" for index in range(6)]


def test_download_fetches_every_part_from_folders_of_one_repository(repositories: Path, tmp_path: Path) -> None:
    with small_hub() as hub:
        repository = repositories / "repositories" / "AudioLLMs" / "SALMONN_7B"
        files = {str(file.relative_to(repository)): file for file in repository.rglob("*") if file.is_file()}
        hub.repos = {"AudioLLMs/SALMONN_7B": {name: file.read_bytes() for name, file in files.items()}}
        hub.repos["AudioLLMs/SALMONN_7B"] |= {"whisper/tf_model.h5": b"once more", "README.md": b"words"}
        code = (
            "from nota_cli.recipe.load import load_recipe\n"
            "    rows = download(load_recipe('salmonn-7b'))\n"
            "    answer = [[row.part, str(row.folder), row.files] for row in rows]"
        )
        rows = {part: (Path(folder), count) for part, folder, count in run(code, tmp_path, hub)}
    snapshot = rows["speech_encoder.path"][0].parent
    assert {part: (str(folder.relative_to(snapshot)), count) for part, (folder, count) in rows.items()} == {
        "speech_encoder.path": ("whisper", 3),
        "audio_encoder.path": (f"beats_path/{published.BEATS}", 1),
        "decoder.path": ("vicuna", 7),
        "checkpoint": ("ckpt_path/salmonn_7b_v0.pth", 1),
    }
    assert {str(file.relative_to(snapshot)) for file in snapshot.rglob("*") if file.is_file()} == set(files)
    paths = ("whisper", "vicuna", f"beats_path/{published.BEATS}", "ckpt_path/salmonn_7b_v0.pth")
    code = f"answer = [str(local_path('AudioLLMs/SALMONN_7B/' + path)) for path in {paths!r}]"
    assert run(code, tmp_path) == [str(snapshot / path) for path in paths]


def test_tables_of_another_decoder_are_refused(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    published.salmonn_checkpoint(file, layers=2)
    content = torch.load(file, weights_only=True)
    table = "llama_model.base_model.model.model.layers.1.self_attn.rotary_emb.inv_freq"
    content["model"][table] = content["model"][table] * 2
    torch.save(content, file)
    with pytest.raises(
        CheckpointError, match=r"(?s)not those of recipe 'salmonn-7b'.*decoder.path.*layers.1.self_attn"
    ):
        build(load_recipe("salmonn-7b").with_checkpoint(file))


def test_ultravox(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint has the projector, and the encoder as it was tuned, which takes the place of Whisper's own."""
    root = tmp_path / "more"
    state = published.ultravox(root)
    published.vicuna(root / "meta-llama" / "Llama-3.2-1B-Instruct", layers=2)
    published.cached(root, cache)
    recipe = load_recipe("ultravox-1b")
    model = build(recipe, purpose="run")
    assert f"{len(state)} matched, {MATCHED}" in capsys.readouterr().err
    own = model.state_dict()
    for name, tensor in state.items():
        name = name.replace("multi_modal_projector.", "connector.").replace("audio_tower.", "speech_encoder.")
        assert torch.equal(own[name].bfloat16(), tensor), name
    expected = own_projection(state, states := torch.randn(1, 21, published.SPEECH))
    embeds, mask = model.connector(states, torch.ones(1, 21, dtype=torch.bool))
    assert mask.tolist() == [[True] * 3]  # 21 states fill two windows and begin a third
    torch.testing.assert_close(embeds, expected, rtol=1e-4, atol=1e-5)


def own_projection(state: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """The published formula step by step."""

    def rms(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * part(name)

    def part(name: str) -> torch.Tensor:
        return state[f"multi_modal_projector.{name}.weight"].float()

    padded = torch.cat([states, torch.zeros(1, 3, states.size(2))], dim=1)
    hidden = rms(padded.reshape(1, 3, -1), "ln_pre") @ part("linear_1").T
    half = hidden.size(-1) // 2
    gate = hidden[..., half:]
    return rms(hidden[..., :half] * gate * torch.sigmoid(gate), "ln_mid") @ part("linear_2").T


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("salmonn-7b", {"decoder": 6_738_415_616 + 2 * 4096, "connector": 25_991_936, "lora": 4_194_304}),
        ("salmonn-13b", {"decoder": 13_015_864_320 + 2 * 5120, "connector": 26_779_392, "lora": 6_553_600}),
        ("ultravox-1b", {"decoder": 1_235_814_400, "connector": 46_149_632}),
    ],
)
def test_full_size_has_the_published_counts(name: str, counts: dict[str, int]) -> None:
    """Of the decoders of SALMONN: what is published, and a row in and out for `[PAD]`."""
    parts = {part.name: part.parameters for part in build(load_recipe(name), "meta", load_format="dummy").parts()}
    assert counts.items() <= parts.items()
