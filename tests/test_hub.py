"""The real huggingface_hub against a small hub on this machine; each case in a process of its own, as its settings
are read when it is imported."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from helpers.paths import REPOSITORY
from nota_cli.errors import CheckpointError
from nota_cli.hub import HubName, hub_name, local_path, recipe_parts, wanted_files
from nota_cli.recipe.schema import Recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".pt", ".pth", ".bin", ".h5")  # what the hub keeps beside git


@dataclass
class Hub:
    """Repositories, and how the server misbehaves."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    """File to the byte at which its next transfer is cut."""
    sent_instead: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """File to the size that is listed in place of the true one."""
    requests: list[str] = field(default_factory=list)

    def listing(self, repo: str, name: str) -> dict[str, Any]:
        content = self.repos[repo][name]
        size = self.sizes.get(name, len(content))
        entry = {"size": size, "blobId": hashlib.sha1(content).hexdigest(), "oid": hashlib.sha1(content).hexdigest()}
        if name.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": size, "sha256": digest, "oid": digest, "pointerSize": 134}
        return entry


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path} {self.headers.get('Range') or ''}".strip())
        pieces = path.split("/")
        repo = "/".join(pieces[2:4] if pieces[0] == "api" else pieces[:2])
        if repo not in self.hub.repos:
            self.refuse(404, "RepoNotFound")
        elif pieces[0] == "api":
            self.tell(repo, tree="tree" in pieces)
        elif repo in self.hub.gated:
            self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        elif "/".join(pieces[4:]) not in self.hub.repos[repo]:
            self.refuse(404, "EntryNotFound")
        else:
            self.give(repo, "/".join(pieces[4:]), body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def tell(self, repo: str, tree: bool) -> None:
        files = [(name, self.hub.listing(repo, name)) for name in self.hub.repos[repo]]
        entries = [{"type": "file", "path": name, "rfilename": name, **entry} for name, entry in files]
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": entries, "tags": [], "private": False}
        content = json.dumps(entries if tree else info).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def give(self, repo: str, name: str, body: bool) -> None:
        entry = self.hub.listing(repo, name)
        content = self.hub.sent_instead.get(name, self.hub.repos[repo][name])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{entry.get("lfs", entry)["oid"]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            cut = self.hub.cut_after.pop(name, None)
            self.wfile.write(content[start:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": made}))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    made.repos = {
        "org/ears": {
            "README.md": b"words",
            "config.json": b"{}",
            "model.safetensors": os.urandom(300_000),
            "pytorch_model.bin": b"the same once more",
            "tf_model.h5": b"and again",
            "original/model.pt": b"and again",
        },
        "org/sounds": {"beats.pt": b"sounds" * 1000, "others/beats.pt": b"other sounds"},
        "org/words": {
            "config.json": b"{}",
            "tokenizer_config.json": b"{}",
            "tokenizer.json": b"{}",
            "model.safetensors.index.json": json.dumps(
                {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
            ).encode(),
            "model-00001-of-00002.safetensors": b"first" * 100,
            "model-00002-of-00002.safetensors": b"second" * 100,
        },
    }
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


RECIPE = {
    "name": "three-parts",
    "speech_encoder": {"path": "org/ears"},
    "audio_encoder": {"kind": "beats", "path": "org/sounds/beats.pt"},
    "decoder": {"path": "org/words", "tokenizer": "org/words"},
}


def run(code: str, cache: Path, hub: Hub | None = None, **variables: str) -> Any:
    """What `code` puts into `answer`, or the text of the error that a user would see, from a fresh process."""
    script = (
        "import json, sys\n"
        "from nota_cli.errors import NotaError\n"
        "from nota_cli.hub import *\n"
        "from nota_cli.recipe.schema import Recipe\n"
        f"recipe = Recipe.model_validate({RECIPE!r})\n"
        f"try:\n    {code}\nexcept NotaError as error:\n    answer = str(error)\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps(answer))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", **variables}
    if hub is None:
        settings.setdefault("HF_HUB_OFFLINE", "1")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DOWNLOAD = "answer = [[d.part, d.source, str(d.folder), d.bytes, d.files] for d in download(recipe)]"


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


def test_published_weights_come_from_the_hub_where_it_gives_them(hub: Hub, tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "real_weights.py"
    weights = os.urandom(100_000)
    hub.repos["openai/whisper-base"] = {"config.json": b"{}", "model.safetensors": weights, "tf_model.h5": b"again"}
    hub.repos["google/gemma-3-270m"] = {"config.json": b"{}", "model.safetensors": weights}
    hub.gated.add("google/gemma-3-270m")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}

    def assemble(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), "--only", name, "--from", "hub", "--out", str(tmp_path / "weights")]
        return subprocess.run(command, env={**clean, **settings}, capture_output=True, text=True, check=False)

    for words in ("copied from openai/whisper-base on the hub", "here already, verified"):
        done = assemble("whisper-base")
        assert (done.returncode, words in done.stderr) == (0, True), done.stderr
    folder = tmp_path / "weights" / "whisper-base"
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == weights
    refused = assemble("gemma-3-270m")
    assert refused.returncode == 1
    assert "google/gemma-3-270m is gated" in refused.stderr
    assert not (tmp_path / "weights" / "gemma-3-270m").exists()


def test_a_folder_of_ones_own_stands_in_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`weights/NAME`, or NAME in $NOTA_WEIGHTS, for ORG/NAME; a path that is there comes first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTA_WEIGHTS", raising=False)
    own, other = tmp_path / "weights" / "ears", tmp_path / "elsewhere" / "ears"
    for folder in (own, other):
        folder.mkdir(parents=True)
    assert local_path("org/ears") == Path("weights/ears")
    assert local_path("another/ears", kind="tokenizer") == Path("weights/ears")
    monkeypatch.setenv("NOTA_WEIGHTS", str(other.parent))
    assert local_path("org/ears") == other
    (tmp_path / "org" / "ears").mkdir(parents=True)
    assert local_path("org/ears") == Path("org/ears")


def test_what_stands_in_is_never_a_file_or_another_name(hub: Hub, tmp_path: Path) -> None:
    """A file of a repository, a folder of another name and what is no folder leave the hub to be asked."""
    weights = tmp_path / "own"
    (weights / "sounds").mkdir(parents=True)
    (weights / "ears").write_text("no folder")
    code = "answer = [str(local_path('org/sounds/beats.pt')), str(local_path('org/ears'))]"
    found = run(code, tmp_path, hub, NOTA_WEIGHTS=str(weights))
    assert all(str(tmp_path / "own") not in path for path in found)
    assert [Path(path).exists() for path in found] == [True, True]


def test_absent_weights_name_the_recipes_own_remedies(tmp_path: Path) -> None:
    """The recipe's name in the command, and the script for those that it has."""

    def message(recipe: str) -> str:
        rows = tmp_path / "rows.json"
        rows.write_text('{"annotation": [{"path": "a.wav", "task": "asr", "testset_id": "test0000"}]}')
        command = [
            "infer",
            "--recipe",
            recipe,
            "--task",
            "asr",
            "--annotation",
            str(rows),
            "--audio-root",
            str(tmp_path),
        ]
        command += ["--out", str(tmp_path / "out.csv")]
        environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
        environment |= {"NOTA_WEIGHTS": str(tmp_path / "none"), "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "nota_cli.cli", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        return " ".join(done.stderr.split())

    small, other = message("small"), message("salmonn-3b")
    assert "`nota download small`" in small
    assert "`python scripts/real_weights.py`" in small
    assert "`nota download salmonn-3b`" in other
    assert "real_weights" not in other
