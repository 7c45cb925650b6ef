"""The real huggingface_hub against a small hub on this machine; each case in a process of its own, as its settings
are read when it is imported."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.hub import RECIPE, Hub, run, small_hub
from nota_cli.errors import CheckpointError
from nota_cli.hub import local_path, recipe_parts, wanted_files
from nota_cli.hub_names import HubName, hub_name
from nota_cli.recipe.schema import Recipe

DOWNLOAD = "answer = [[d.part, d.source, str(d.folder), d.bytes, d.files] for d in download(recipe)]"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with small_hub() as served:
        yield served


def test_a_recipe_is_fetched_checked_and_then_found_offline(hub: Hub, tmp_path: Path) -> None:
    rows = run(DOWNLOAD, tmp_path, hub)
    assert [(part, source, files) for part, source, _, _, files in rows] == [
        ("speech_encoder.path", "org/ears", 2),
        ("audio_encoder.path", "org/sounds/beats.pt", 1),
        ("decoder.path", "org/words", 6),
        ("decoder.tokenizer", "org/words", 3),
    ]
    ears, sounds, words = (Path(row[2]) for row in rows[:3])
    assert {path.name for path in ears.iterdir()} == {"config.json", "model.safetensors"}  # neither copies nor README
    assert (ears / "model.safetensors").read_bytes() == hub.repos["org/ears"]["model.safetensors"]
    assert rows[0][3] == 300_002
    assert sounds.read_bytes() == hub.repos["org/sounds"]["beats.pt"]
    asked = len(hub.requests)
    code = (
        "answer = [str(local_path('org/ears')), str(local_path('org/sounds/beats.pt')), str(local_path('org/words')),"
        "str(local_path('org/words', kind='tokenizer'))]"
    )
    found = run(code, tmp_path)
    assert found == [str(ears), str(sounds), str(words), str(words)]
    assert run(code, tmp_path, hub) == found
    assert len(hub.requests) == asked  # what is in the cache is not asked for again


def test_a_revision_is_fetched_and_then_found_offline(hub: Hub, tmp_path: Path) -> None:
    folder = run("answer = str(local_path('org/ears@v2'))", tmp_path, hub)
    assert any(request.startswith("GET api/models/org/ears/revision/v2") for request in hub.requests)
    assert run("answer = str(local_path('org/ears@v2'))", tmp_path) == folder
    main = "local_path('org/ears')\n    except NotaError as error:\n        answer = str(error)"
    assert "not whole" in run(f"try:\n        {main}", tmp_path)


def test_a_transfer_that_is_cut_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.repos["org/ears"]["model.safetensors"] = os.urandom(11_000_000)  # the library writes 10 MiB at a time
    hub.cut_after["model.safetensors"] = 10_900_000
    folder = Path(run("answer = str(local_path('org/ears'))", tmp_path, hub))
    assert (folder / "model.safetensors").read_bytes() == hub.repos["org/ears"]["model.safetensors"]
    transfers = [request for request in hub.requests if request.startswith("GET org/ears") and "safetensors" in request]
    assert [transfer.partition(" bytes=")[2] for transfer in transfers] == ["", "10485760-"]


def test_a_download_that_was_killed_is_no_model_yet(hub: Hub, tmp_path: Path) -> None:
    folder = Path(run("answer = str(local_path('org/words'))", tmp_path, hub))
    second = folder / "model-00002-of-00002.safetensors"
    second.resolve().unlink()
    second.unlink()
    code = (
        "answer = [str(local_path('org/words', kind='tokenizer'))]\n    try:\n        local_path('org/words')\n"
        "    except NotaError as error:\n        answer.append(str(error))"
    )
    tokenizer, message = run(code, tmp_path)
    assert tokenizer == str(folder)
    assert "not whole" in message
    hub.requests.clear()
    assert run("answer = str(local_path('org/words'))", tmp_path, hub) == str(folder)
    assert second.read_bytes() == b"second" * 100
    assert not [request for request in hub.requests if request.startswith("GET") and "00001-of" in request]


def test_a_tokenizer_alone_is_no_model(hub: Hub, tmp_path: Path) -> None:
    folder = Path(run("answer = str(local_path('org/words', kind='tokenizer'))", tmp_path, hub))
    assert {path.suffix for path in folder.iterdir()} == {".json"}
    assert "not whole" in run("answer = str(local_path('org/words'))", tmp_path)


def test_damaged_files_in_the_cache_are_fetched_again(hub: Hub, tmp_path: Path) -> None:
    folder = Path(run("answer = str(local_path('org/words'))", tmp_path, hub))
    files = [folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    good = [file.read_bytes() for file in files]
    files[0].resolve().write_bytes(good[0][:50])
    files[1].resolve().write_bytes(good[1][:-1] + b"?")  # as long as it should be
    run(DOWNLOAD, tmp_path, hub)
    assert [file.read_bytes() for file in files] == good


def test_what_differs_from_the_listing_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.sent_instead["beats.pt"] = b"noises" * 1000
    message = run(DOWNLOAD, tmp_path, hub)
    assert "org/sounds" in message
    assert "beats.pt: its SHA-256 is not the hub's" in message


def test_a_gated_model_says_where_to_accept_and_how_to_log_in(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("org/words")
    for token in ({}, {"HF_TOKEN": "hf_notTheRightOne"}):
        message = run(DOWNLOAD, tmp_path, hub, **token)
        assert "org/words is gated" in message
        assert "https://huggingface.co/org/words" in message
        assert "hf auth login" in message
        assert "HF_TOKEN" in message
        assert "notTheRightOne" not in message


def test_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    expected = {
        "org/earz": ["org/earz here", "no public model org/earz"],
        "weights/whisper/model.pt": ["weights/whisper/model.pt here", "no public model weights/whisper"],
        "org/sounds/beatz.pt": ["org/sounds on the hub has no beatz.pt", "others/beats.pt"],
        "org/sounds": ["holds nothing that nota can read as a model", "beats.pt"],
    }
    code = (
        f"answer = []\n    for path in {list(expected)!r}:\n        try:\n            local_path(path)\n"
        "        except NotaError as error:\n            answer.append(str(error))"
    )
    messages = run(code, tmp_path, hub)
    assert len(messages) == len(expected)
    for message, words in zip(messages, expected.values(), strict=True):
        assert all(word in message for word in words), message


def test_without_network(tmp_path: Path) -> None:
    for variables, reason in (({}, "HF_HUB_OFFLINE is set"), ({"HF_HUB_OFFLINE": "0"}, "refused")):
        message = run("answer = str(local_path('org/ears'))", tmp_path, **variables)
        assert "org/ears is no path here" in message
        assert reason in message
        assert "nota download" in message
        assert "--set" in message
        assert str(tmp_path) in message


def test_too_large_for_the_disk_is_known_before_the_first_byte(hub: Hub, tmp_path: Path) -> None:
    hub.sizes["model.safetensors"] = 10**18
    message = run(DOWNLOAD, tmp_path, hub)
    assert "does not fit on the disk" in message
    assert "HF_HOME" in message
    assert not [request for request in hub.requests if "resolve" in request]


def test_parts_that_are_here_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    code = (
        f"recipe.speech_encoder.path = {str(tmp_path / 'mine')!r}; recipe.decoder.path = recipe.speech_encoder.path; "
        "recipe.decoder.tokenizer = None; seen = []; done = download(recipe, lambda *part: seen.append(list(part))); "
        "answer = [seen, [[str(d.folder), d.bytes, d.files] for d in done]]"
    )
    seen, done = run(code, tmp_path / "cache", hub)
    assert [part for part, _ in seen] == ["speech_encoder.path", "audio_encoder.path", "decoder.path"]
    assert done[0] == done[2] == [str(tmp_path / "mine"), 2, 0]
    assert done[1][1:] == [6000, 1]


def test_local_paths_are_returned_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "ears").mkdir(parents=True)
    (tmp_path / "beats.pt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("org/ears") == Path("org/ears")  # a folder comes before the hub
    assert local_path(tmp_path / "beats.pt") == tmp_path / "beats.pt"
    assert local_path("~/beats.pt") == tmp_path / "beats.pt"
    for path in ("", "weights", "./org/none", "/none/at all", "org/ears/none", "weights/beats.pt", "org/a--b"):
        with pytest.raises(CheckpointError, match="there is no file or folder"):
            local_path(path)


def test_names_on_the_hub() -> None:
    assert hub_name("Qwen/Qwen2.5-0.5B-Instruct") == HubName("Qwen/Qwen2.5-0.5B-Instruct")
    assert hub_name("org/sounds/sub/m=0.4.pt") == HubName("org/sounds", "sub/m=0.4.pt")
    assert hub_name("org/name@refs/pr/70") == HubName("org/name", revision="refs/pr/70")
    assert hub_name("org/name@refs/pr/70/lora") == HubName("org/name", folder="lora", revision="refs/pr/70")
    assert hub_name("org/name@v2/a.pt") == HubName("org/name", file="a.pt", revision="v2")
    assert HubName("org/name", folder="lora", revision="v2").spelled == "org/name@v2/lora"
    assert hub_name("weights/beats.pt") is None  # no repository is called so
    assert hub_name("org/sounds/../beats.pt") is None


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"], {"model.safetensors"}),
        (["model.safetensors", "model.fp32-00001-of-00002.safetensors", "flax_model.msgpack"], {"model.safetensors"}),
        (["gptq_model-4bit-128g.safetensors", "onnx/model.onnx"], {"gptq_model-4bit-128g.safetensors"}),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "training_args.bin"],
            {"pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"},
        ),
        (["pytorch_model.bin", "tf_model.h5", "original/consolidated.00.pth"], {"pytorch_model.bin"}),
        (["model.safetensors", "adapter_model.safetensors"], {"model.safetensors", "adapter_model.safetensors"}),
        (["adapter_model.safetensors", "adapter_model.bin"], {"adapter_model.safetensors"}),
    ],
)
def test_weights_are_fetched_once(names: list[str], weights: set[str]) -> None:
    texts = {"config.json", "merges.txt", "tokenizer.model", "chat_template.jinja"}
    assert set(wanted_files([*names, *texts, "README.md", "modeling_x.py"], "model")) == texts | weights
    assert set(wanted_files([*names, *texts], "tokenizer")) == texts


def test_a_checkpoint_comes_with_its_folders() -> None:
    names = ["recipe.yaml", "model.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert wanted_files([*names, "README.md", "trainer/state.pt"], "checkpoint") == names


def test_parts_of_a_recipe() -> None:
    assert recipe_parts(Recipe.model_validate(RECIPE))[1] == ("audio_encoder.path", "org/sounds/beats.pt")
    made_here = {
        "name": "random",
        "checkpoint": "./mine",
        "speech_encoder": {"config": {}},
        "decoder": {"config": {}, "tokenizer": "data/tokenizer"},
    }
    assert recipe_parts(Recipe.model_validate(made_here)) == [("decoder.tokenizer", "data/tokenizer")]
    shared = {**made_here, "checkpoint": "org/trained"}
    assert recipe_parts(Recipe.model_validate(shared))[-1] == ("checkpoint", "org/trained")
