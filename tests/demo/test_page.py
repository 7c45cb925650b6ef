"""The page as it is served: what it gives away, and, in headless Chromium, what a visitor sees."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from helpers.paths import REPOSITORY, SAMPLES

pytest.importorskip("gradio", reason="the page needs gradio: pip install '.[demo]'")
AUDIO = SAMPLES / "audio"
START_SECONDS = 120
FETCHED: list[str] = []  # by the pages in the browser
PATIENCE = 30_000  # milliseconds
FOLDERS = re.compile(rf"{re.escape(str(REPOSITORY))}|{re.escape(str(Path.home()))}(?=/\w)|/nota_cli\b|site-packages")


@dataclass
class Served:
    """A running `nota demo`."""

    url: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]


def start(folder: Path, *arguments: str) -> Served:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "nota_cli.cli", "demo", "--port", str(port), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
    end = time.monotonic() + START_SECONDS
    while "the page is at" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    return Served(f"http://127.0.0.1:{port}", port, folder, process)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    checkpoint = str(SAMPLES.parent)
    page = start(tmp_path_factory.mktemp("served"), "--recipe", "tiny", "--recipe", checkpoint, "--max-megabytes", "5")
    (temporary,) = page.folder.glob("nota-demo-*")
    assert any(temporary.iterdir())
    yield page
    page.process.terminate()
    assert page.process.wait(START_SECONDS) == 0
    assert not temporary.exists()  # recordings go with the page


def fetched(url: str, data: bytes | None = None, content_type: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, data, {"Content-Type": content_type} if content_type else {})
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def test_nothing_of_this_machine_is_given_away(served: Served) -> None:
    for page in ("/", "/config", "/gradio_api/info"):
        text = fetched(served.url + page)[1]
        assert not FOLDERS.findall(text), page
    for file in (REPOSITORY / "pyproject.toml", served.folder / "log", Path("/etc/passwd"), AUDIO / "rain.flac"):
        assert fetched(f"{served.url}/gradio_api/file={file}")[0] in (403, 404), file


def test_it_listens_on_loopback_alone(served: Served) -> None:
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {line[1] for line in listening if line[3] == "0A" and line[1].endswith(f":{served.port:04X}")}
    assert addresses == {f"0100007F:{served.port:04X}"}


def test_a_file_that_is_too_large_is_refused(served: Served) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="big.wav"\r\n\r\n' + bytes(5_300_000)
    status, text = fetched(
        f"{served.url}/gradio_api/upload", body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )
    assert (status, "maximum allowed size" in text) == (413, True)


# ---- in a browser ----


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone hears: a shipped recording, then silence, at 48 kHz as Chromium wants it."""
    wave, rate = soundfile.read(AUDIO / "digits-371.flac")
    whole = soxr.resample(np.concatenate([np.zeros(rate // 3), wave, np.zeros(20 * rate)]), rate, 48_000)
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(path, whole, 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(spoken: Path) -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    fake.append(f"--use-file-for-fake-audio-capture={spoken}%noloop")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=fake)
        yield started
        started.close()


def visit(browser: Any, served: Served, width: int = 1280, height: int = 860) -> Any:
    page = browser.new_context(viewport={"width": width, "height": height}, permissions=["microphone"]).new_page()
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: FETCHED.append(request.url))
    page.goto(served.url)
    page.wait_for_selector("#listen")
    return page


def upload(page: Any, file: Path) -> None:
    page.set_input_files("#recording input[type=file]", str(file))


def answer_of(page: Any, card: str = "#answer") -> str:
    """The text of a card, once its figures are there."""
    page.wait_for_selector(f"{card} dl")
    figures = page.inner_text(f"{card} dl")
    for name in ("First token", "Per token", "Tokens", "Weights", "Peak memory"):
        assert name in figures
    assert re.search(r"First token\s+[\d.]+ m?s", figures)
    assert re.search(r"Per token\s+[\d.]+ m?s", figures)
    return str(page.inner_text(f"{card} .text"))


def keep(page: Any, name: str) -> None:
    """A picture for docs/, where NOTA_SCREENSHOTS names a folder."""
    if folder := os.environ.get("NOTA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_an_uploaded_sample_is_heard_by_both_models(width: int, browser: Any, served: Served) -> None:
    page = visit(browser, served, width)
    upload(page, AUDIO / "digits-371.flac")
    page.wait_for_selector(".nota-picture img")
    page.click("#listen")
    assert answer_of(page) == answer_of(page, "#answer-beside") == "three seven one"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator(card).bounding_box() for card in ("#answer", "#answer-beside")]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 600)  # beside each other, or one above the other
    assert not FOLDERS.findall(page.inner_text("body"))
    assert not [url for url in FETCHED if not url.startswith((served.url, "data:", "blob:"))]
    keep(page, f"demo-{width}")


@pytest.mark.browser
def test_the_microphone(browser: Any, served: Served) -> None:
    page = visit(browser, served)
    page.get_by_role("button", name="Record audio").click()
    page.click("#recording .record-button")
    page.wait_for_timeout(3_500)
    page.click("#recording .stop-button")
    page.wait_for_selector(".nota-picture img")
    page.click("#listen")
    assert answer_of(page) == "three seven one"


@pytest.mark.browser
def test_an_example_by_the_keyboard_alone(browser: Any, served: Served) -> None:
    page = visit(browser, served)
    example = page.get_by_role("button", name="rain", exact=True)
    for _ in range(40):  # from the top of the page on
        if example.evaluate("each => each === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".nota-picture img")
    assert page.get_by_label("What is heard").is_checked()
    page.focus("#listen")
    page.keyboard.press("Enter")
    assert "rain" in answer_of(page)
    assert "rain" in answer_of(page, "#answer-beside")
    page.get_by_label("What is heard").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_selector("#question textarea, #question input")
    page.locator("#question textarea, #question input").first.fill("")
    page.focus("#listen")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer [role=alert]")
    assert "Write your question" in page.inner_text("#answer")


@pytest.mark.browser
def test_what_cannot_be_heard_gets_a_friendly_answer(browser: Any, served: Served, tmp_path: Path) -> None:
    (tmp_path / "fake.wav").write_text("no sound at all\n" * 100)
    soundfile.write(tmp_path / "hour.flac", np.zeros(3_600 * 8_000, np.int16), 8_000)
    for name, message in (("fake.wav", "not audio that can be decoded"), ("hour.flac", "is 1 h 0 min long")):
        page = visit(browser, served)
        upload(page, tmp_path / name)
        page.wait_for_selector("#picture [role=alert]")
        assert message in page.inner_text("#picture")
        page.click("#listen")
        page.wait_for_selector("#answer [role=alert]")
        assert message in page.inner_text("#answer")
        assert str(tmp_path) not in page.inner_text("body")
        assert "nota-demo-" not in page.inner_text("body")
    page = visit(browser, served)
    (tmp_path / "notes.txt").write_text("text")
    upload(page, tmp_path / "notes.txt")
    page.get_by_text("Invalid file type").first.wait_for()


@pytest.mark.browser
def test_two_visitors_at_once(browser: Any, served: Served) -> None:
    pages = [visit(browser, served), visit(browser, served)]
    for page, name in zip(pages, ("9 0", "sea waves"), strict=True):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_selector(".nota-picture img")
    for page in pages:
        page.click("#listen")
    assert answer_of(pages[0]) == "nine zero"
    assert "wave" in answer_of(pages[1])
