"""Sending a submission to its Kaggle competition with the official client, and following it to its score."""

import contextlib
import io
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from nota_cli.console import warn
from nota_cli.errors import NotaError, UsageError

INSTALL = 'pip install "nota-cli[kaggle]"'
CREDENTIALS = (
    "run kaggle auth login, or make a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or "
    "~/.kaggle/access_token"
)
LIST_SECONDS = 60.0
"""The client waits for ever for an answer; after so long one look at the score counts as lost."""

LONGEST_WAIT = 60.0
"""Seconds between two polls while the network is gone: each lost look doubles the wait up to this."""

T = TypeVar("T")
OnState = Callable[[str, int], None]


@dataclass(frozen=True)
class SubmissionRequest:
    """What is sent: the CSV, its rows and size, where to and under which message."""

    file: Path
    competition: str
    message: str
    rows: int
    bytes: int

    def summary(self) -> dict[str, object]:
        """As plain values."""
        return {**asdict(self), "file": str(self.file)}


@dataclass(frozen=True)
class Outcome:
    """What became of a submission: `status` is `complete` or `error`, `ref` the service's number of it.

    A score that the competition does not show (yet) is None, and so is a reason that it does not give.
    """

    status: str
    competition: str
    ref: int
    public_score: float | None
    private_score: float | None
    reason: str | None

    def summary(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


class _Lost(Exception):
    """A look at the score failed in a way that may pass."""


def pack(csv: Path, rows: int, competition: str, message: str) -> SubmissionRequest:
    """What would be sent.

    Raises:
        UsageError: the competition's name cannot be one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", competition):
        raise UsageError(
            f"--competition {competition!r}: give the last part of its address, for example titanic for "
            "https://www.kaggle.com/competitions/titanic"
        )
    return SubmissionRequest(Path(csv), competition, message, rows, Path(csv).stat().st_size)


def send(
    request: SubmissionRequest, timeout: float, poll_seconds: float, on_state: OnState = lambda state, polls: None
) -> Outcome:
    """Send a file and look at it until it is scored or refused, through lost connections too.

    Args:
        request: what is sent.
        timeout: seconds to wait for the score after sending.
        poll_seconds: seconds between two polls.
        on_state: told what is going on, and how many polls were taken.

    Raises:
        UsageError: the kaggle client is not installed.
        NotaError: no or refused credentials, no such competition, no network; or no score in time. The message says
            whether the file was sent.
    """
    on_state("signing in", 0)
    client = _client()
    on_state("sending", 0)
    ref = _send(client, request)
    try:
        return _follow(client, request, ref, timeout, poll_seconds, on_state)
    except KeyboardInterrupt:
        warn(_sent(request, ref))
        raise


def _client() -> Any:
    """The official client, signed in by its own means.

    It signs in when it is imported, prints instructions and ends the process where it cannot; neither leaves here.
    """
    # Else lost uploads, and everything with VERBOSE set, are logged with the address that allows the upload.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with _silence_stdout():
            import kaggle
    except ImportError as error:
        raise UsageError(f"nota submit needs the kaggle client ({error}): {INSTALL}") from error
    except SystemExit:
        raise NotaError(f"Kaggle: no credentials, or they were not accepted; {CREDENTIALS}") from None
    except OSError as error:
        raise UsageError(
            f"the kaggle client cannot make its settings folder ({error}); put another one into KAGGLE_CONFIG_DIR"
        ) from error
    from requests.exceptions import HTTPError, RequestException

    try:
        with _silence_stdout():
            kaggle.api.authenticate()
    except SystemExit:
        raise NotaError(f"Kaggle: no credentials, or they were not accepted; {CREDENTIALS}") from None
    except HTTPError as error:
        if _code(error) in (401, 403):
            raise NotaError(f"Kaggle did not accept the credentials; {CREDENTIALS}") from None
        raise NotaError(f"Kaggle answered {_reason(error)} when signing in; nothing was sent, try later") from None
    except (RequestException, OSError) as error:
        raise NotaError(
            f"cannot reach Kaggle ({type(error).__name__}); nothing was sent. Check the network and any proxy settings."
        ) from None
    return kaggle.api


def _send(client: Any, request: SubmissionRequest) -> int:
    """The number that the service gives the submission."""
    from requests.exceptions import HTTPError, RequestException

    unknown = (
        f"it is not known whether {request.file.name} arrived. Before sending it again look: {_listing_hint(request)}"
    )
    try:
        with _silence_stdout():
            answer = client.competition_submit(str(request.file), request.message, request.competition, quiet=True)
    except HTTPError as error:
        code = _code(error)
        if code >= 500:
            raise NotaError(f"Kaggle answered {_reason(error, client)}; {unknown}") from None
        raise NotaError(
            f"Kaggle refused the submission, nothing was scored: {_reason(error, client)}. {_remedy(code, request)}"
        ) from None
    except RequestException as error:
        raise NotaError(f"lost Kaggle while sending ({type(error).__name__}); {unknown}") from None
    if answer.message == client.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        raise NotaError(f"{request.file} could not be uploaded, so nothing was submitted; try again")
    if not answer.ref:
        raise NotaError(f"Kaggle gave the submission no number, so it cannot be followed: {_listing_hint(request)}")
    return int(answer.ref)


def _follow(
    client: Any, request: SubmissionRequest, ref: int, timeout: float, poll_seconds: float, on_state: OnState
) -> Outcome:
    begun = time.monotonic()
    polls, lost = 0, 0
    state = "pending"
    while True:
        polls += 1
        try:
            entry = _submission(client, request, ref)
        except _Lost as error:
            lost += 1
            state = f"connection lost: {error}"
        else:
            lost = 0
            state = "not in the list yet" if entry is None else entry.status.name.lower()
            if entry is not None and state in ("complete", "error"):
                return Outcome(
                    state,
                    request.competition,
                    ref,
                    _score(entry.public_score),
                    _score(entry.private_score),
                    None if state == "complete" else entry.error_description or "Kaggle gives no reason",
                )
        on_state(state, polls)
        left = timeout - (time.monotonic() - begun)
        if left <= 0:
            raise NotaError(f"no score after {timeout:g} s ({state}). {_sent(request, ref)}")
        time.sleep(min(left, max(poll_seconds, min(LONGEST_WAIT, poll_seconds * 2**lost))))


def _submission(client: Any, request: SubmissionRequest, ref: int) -> Any:
    """The submission in the list of its team's, or None while it is not there.

    Raises:
        _Lost: no answer, or none that means anything; it may pass.
        NotaError: an answer that will stay as it is.
    """
    from requests.exceptions import HTTPError, RequestException

    try:
        with _silence_stdout():
            entries = _within(LIST_SECONDS, lambda: client.competition_submissions(request.competition))
    except HTTPError as error:
        if _code(error) in (408, 429) or _code(error) >= 500:
            raise _Lost(f"status {_code(error)}") from None
        raise NotaError(f"Kaggle answered {_reason(error, client)}. {_sent(request, ref)}") from None
    except (RequestException, TimeoutError, ValueError) as error:
        # ValueError: a page in place of JSON, as networks with a login show.
        raise _Lost(type(error).__name__) from None
    except (KeyError, TypeError) as error:
        raise NotaError(
            f"the kaggle client does not understand Kaggle's answer ({error!r}); bring it up to date: {INSTALL} "
            f"--upgrade. {_sent(request, ref)}"
        ) from error
    return next((entry for entry in entries or [] if entry is not None and entry.ref == ref), None)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises.

    Raises:
        TimeoutError: nothing in this time; the call is left behind.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return results[0]


@contextlib.contextmanager
def _silence_stdout() -> Iterator[None]:
    """Keep what the client prints off stdout, which is for results; with VERBOSE set it would print the token too."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _code(error: Any) -> int:
    return 0 if error.response is None else int(error.response.status_code)


def _reason(error: Any, client: Any = None) -> str:
    """What the service said, without what must not be shown."""
    text = str(error)
    for name in ("key", "token"):
        secret = client.config_values.get(name) if client is not None else None
        if secret:
            text = text.replace(secret, "***")
    return f"{_code(error)}: {text.strip().rstrip('.') or 'no reason given'}"


def _remedy(code: int, request: SubmissionRequest) -> str:
    page = f"https://www.kaggle.com/competitions/{request.competition}"
    if code == 401:
        return f"The credentials were not accepted; {CREDENTIALS}"
    if code == 403:
        return f"Check the competition's name, and accept its rules at {page}/rules"
    if code == 404:
        return f"Check the competition's name: {page}"
    return f"See {page}"


def _listing_hint(request: SubmissionRequest) -> str:
    name = request.competition
    return f"kaggle competitions submissions {name}, or https://www.kaggle.com/competitions/{name}/submissions"


def _sent(request: SubmissionRequest, ref: int) -> str:
    return f"{request.file.name} was submitted (number {ref}); do not send it again, look: {_listing_hint(request)}"


def _score(text: str | None) -> float | None:
    """The service's text as a number; nothing where it shows none."""
    try:
        return float(text) if text else None
    except ValueError:
        return None
