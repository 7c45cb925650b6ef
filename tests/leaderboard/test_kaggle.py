"""The real kaggle client against a small Kaggle on this machine; each case in a process of its own, as the client signs
in and reads its settings when it is imported."""

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
from urllib.parse import urlsplit

import pytest

TOKEN = "KGAT_secret-of-the-test"
KEY = "0123456789abcdef-secret-key"
REF = 4711
NAME = "boost-asr"


@dataclass
class Service:
    """What the stub answers, and what it was asked."""

    url: str = ""
    accepted: bool = True
    states: list[dict[str, Any]] = field(default_factory=list)
    """The submission as the looks after one another see it; the last one stays."""
    broken: list[str] = field(default_factory=list)
    """What befalls the first looks: `drop` the connection, `hang`, or a status such as `503`."""
    lost_uploads: int = 0
    refused: tuple[int, str] | None = None
    """Status and message in answer to the submission."""
    calls: list[str] = field(default_factory=list)
    uploaded: bytes = b""
    submitted: dict[str, Any] = field(default_factory=dict)
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when the command has ended."""

    @property
    def looks(self) -> int:
        return self.calls.count("ListSubmissions")


class Handler(BaseHTTPRequestHandler):
    service: Service

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self.service.calls.append("upload")
        if self.service.lost_uploads >= self.service.calls.count("upload"):
            self.connection.close()
            return
        self.service.uploaded = self.body()
        self.answer({})

    def do_POST(self) -> None:
        # The client speaks to http://localhost through a proxy, which is this server.
        call = urlsplit(self.path).path.rsplit("/", 1)[-1]
        self.service.calls.append(call)
        getattr(self, call)(json.loads(self.body() or b"{}"))

    def IntrospectToken(self, request: dict[str, Any]) -> None:
        self.answer({"active": self.service.accepted, "username": "someone"} if self.service.accepted else {})

    def StartSubmissionUpload(self, request: dict[str, Any]) -> None:
        signed = self.headers.get("Authorization", "")
        if not self.service.accepted or not signed:
            self.answer({"code": 401, "message": f"Unauthenticated: {signed}, {KEY}"}, 401)
        elif request["competitionName"] != NAME:
            self.answer({"code": 403, "message": "Permission 'competitions.participate' was denied"}, 403)
        else:
            self.answer({"token": "blob", "createUrl": f"{self.service.url}/upload?signed=capability"})

    def CreateSubmission(self, request: dict[str, Any]) -> None:
        self.service.submitted = request
        if self.service.refused:
            code, message = self.service.refused
            self.answer({"code": code, "message": message}, code)
        else:
            self.answer({"message": "Successfully submitted", "ref": REF})

    def ListSubmissions(self, request: dict[str, Any]) -> None:
        look = self.service.looks - 1
        if look < len(self.service.broken):
            mishap = self.service.broken[look]
            if mishap == "drop":
                self.connection.close()
            elif mishap == "hang":
                self.service.gone.wait(60)
            elif mishap == "page":
                self.answer("<html>sign in to this network</html>")
            else:
                self.answer({"code": int(mishap), "message": "trouble"}, int(mishap))
            return
        states = self.service.states
        old = {"ref": 1, "status": "COMPLETE", "publicScore": "99.9", "description": "first try"}
        state = states[min(look - len(self.service.broken), len(states) - 1)]
        self.answer({"submissions": [{"ref": REF, **state}, old] if state else [old]})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, value: Any, status: int = 200) -> None:
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service(states=[{"status": "PENDING"}, {"status": "COMPLETE", "publicScore": "6.3400", "privateScore": ""}])
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"service": found}))
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "submission.csv"
    path.write_text("testset_id,text\ntest0000,a dog barks\ntest0001,rain falls\n")
    return path


def submit(
    csv: Path, service: Service, *flags: str, script: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `nota submit` with the client's own settings pointing at the stub, and no credentials of this machine."""
    home = csv.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE_", "XDG_"))}
    environment |= {"HOME": str(home), "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "COLUMNS": "200"}
    environment |= {"HTTP_PROXY": service.url, "http_proxy": service.url, "NO_PROXY": "", "no_proxy": ""}
    environment |= {"KAGGLE_API_TOKEN": TOKEN} if not variables else {k: v for k, v in variables.items() if v}
    code = f"import sys\nfrom nota_cli.cli import main\n{script}\nmain()\n"
    arguments = ["submit", str(csv), "--competition", NAME, "-m", "first try", "--poll-seconds", "0.05", *flags]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    service.gone.set()
    for secret in (TOKEN, KEY, "capability", "Authorization"):
        assert secret not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_dry_run_says_what_would_be_sent_and_needs_neither_client_nor_network(csv: Path, service: Service) -> None:
    blocked = "sys.modules['kaggle'] = sys.modules['requests'] = None"
    done = submit(csv, service, "--dry-run", "--json", script=blocked, KAGGLE_API_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "status": "not sent",
        "file": str(csv),
        "competition": NAME,
        "message": "first try",
        "rows": 2,
        "bytes": csv.stat().st_size,
    }
    assert service.calls == []


def test_a_submission_is_sent_and_followed_to_its_score(csv: Path, service: Service) -> None:
    service.states.insert(0, {})  # at first the list does not have it
    done = submit(csv, service, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "complete"
    assert (found["ref"], found["public_score"], found["private_score"]) == (REF, 6.34, None)
    assert service.uploaded == csv.read_bytes()
    assert service.submitted["submissionDescription"] == "first try"
    assert service.submitted["competitionName"] == NAME
    assert service.looks == 3


def test_the_token_stays_hidden_where_the_client_would_print_it(csv: Path, service: Service) -> None:
    service.lost_uploads = 1
    done = submit(csv, service, KAGGLE_API_TOKEN=TOKEN, VERBOSE="true")
    assert done.returncode == 0, done.stderr
    assert "6.34" in done.stdout
    assert service.calls.count("upload") == 2
    assert service.uploaded == csv.read_bytes()


def test_the_reason_for_which_the_service_rejects_a_file_is_told(csv: Path, service: Service) -> None:
    service.states = [{"status": "PENDING"}, {"status": "ERROR", "errorDescription": "Submission must have 7294 rows"}]
    done = submit(csv, service, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"] == "Submission must have 7294 rows"
    assert "Submission must have 7294 rows" in done.stderr
    service.states = [{"status": "ERROR"}]
    done = submit(csv, service)
    assert done.returncode == 1
    assert "gives no reason" in done.stderr


def test_an_invalid_file_is_not_sent(csv: Path, service: Service) -> None:
    csv.write_text("testset_id,text\ntest0000,\n")
    done = submit(csv, service, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["status"] == "invalid"
    assert [problem["line"] for problem in found["problems"]] == [2]
    assert "nothing was sent" in done.stderr
    assert service.calls == []


@pytest.mark.parametrize(
    "variables",
    [
        {"KAGGLE_API_TOKEN": TOKEN},  # the token is not accepted
        {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": KEY},  # nor is the older key, which shows only when sending
        {"KAGGLE_API_TOKEN": ""},  # there are none
    ],
)
def test_bad_or_no_credentials_are_one_message(csv: Path, service: Service, variables: dict[str, str]) -> None:
    service.accepted = False
    done = submit(csv, service, "--json", **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "credentials" in done.stderr
    assert "kaggle auth login" in done.stderr
    assert service.submitted == {}


def test_a_competition_that_one_may_not_enter_is_named(csv: Path, service: Service) -> None:
    done = submit(csv, service, "--competition", "boost-aac")
    assert done.returncode == 1
    assert "403" in done.stderr
    assert "https://www.kaggle.com/competitions/boost-aac/rules" in done.stderr
    done = submit(csv, service, "--competition", "https://www.kaggle.com/competitions/boost-aac")
    assert done.returncode == 2
    assert "last part" in done.stderr


def test_what_the_service_says_on_refusing_is_told(csv: Path, service: Service) -> None:
    service.refused = (400, "You have used all 5 submissions of today")
    done = submit(csv, service)
    assert done.returncode == 1
    assert "You have used all 5 submissions of today" in done.stderr
    service.refused = (502, "bad gateway")
    done = submit(csv, service)
    assert done.returncode == 1
    assert "not known whether" in done.stderr


def test_a_network_that_comes_back_does_no_harm(csv: Path, service: Service) -> None:
    service.broken = ["drop", "503", "page", "hang"]
    # A look that gets no answer is given up; a minute is too long for a test, and one that is answered takes a while.
    script = "import nota_cli.leaderboard.kaggle as kaggle\nkaggle.LIST_SECONDS = 5.0"
    done = submit(csv, service, "--json", script=script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["public_score"] == 6.34
    assert service.looks == len(service.broken) + 2
    assert service.calls.count("CreateSubmission") == 1


def test_a_network_that_is_gone_for_good_leaves_word_of_what_was_sent(csv: Path, service: Service) -> None:
    service.broken = ["drop"] * 1000
    script = "import nota_cli.leaderboard.kaggle as kaggle\nclass time:\n    now = 0.0\n"
    script += "    def monotonic(): return time.now\n    def sleep(seconds): time.now += seconds\nkaggle.time = time"
    done = submit(csv, service, "--timeout", "1", "--json", script=script)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"was submitted (number {REF})" in done.stderr
    assert f"kaggle competitions submissions {NAME}" in done.stderr
    assert service.looks == 5  # after 0, 0.1, 0.3, 0.7 and 1 s


def test_a_score_that_does_not_come_in_time_is_no_loss(csv: Path, service: Service) -> None:
    service.states = [{"status": "PENDING"}]
    done = submit(csv, service, "--timeout", "0.3")
    assert done.returncode == 1
    assert "no score after 0.3 s (pending)" in done.stderr
    assert f"was submitted (number {REF})" in done.stderr


def test_no_network_at_all_and_no_client_are_told_apart(csv: Path, service: Service) -> None:
    nowhere = Service(url="http://127.0.0.1:9")
    done = submit(csv, nowhere)
    assert done.returncode == 1
    assert "cannot reach Kaggle" in done.stderr
    done = submit(csv, service, script="sys.modules['kaggle'] = None")
    assert done.returncode == 2
    assert 'pip install "nota-cli[kaggle]"' in done.stderr
    done = submit(csv, service, KAGGLE_API_TOKEN=TOKEN, KAGGLE_CONFIG_DIR="/dev/null/kaggle")
    assert done.returncode == 2
    assert "KAGGLE_CONFIG_DIR" in done.stderr


def test_whoever_stops_waiting_is_told_that_the_file_was_sent(csv: Path, service: Service) -> None:
    service.states = [{"status": "PENDING"}]
    stop = "import nota_cli.leaderboard.kaggle\nclass time:\n    monotonic = __import__('time').monotonic\n"
    stop += "    def sleep(seconds): raise KeyboardInterrupt\nnota_cli.leaderboard.kaggle.time = time"
    done = submit(csv, service, script=stop)
    assert done.returncode != 0
    assert f"was submitted (number {REF})" in done.stderr
