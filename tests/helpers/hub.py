"""A small model hub on this machine, and nota's code against it in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

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


@contextmanager
def small_hub() -> Iterator[Hub]:
    """A hub with three models, served on loopback."""
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
