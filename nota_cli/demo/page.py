"""The page in gradio, and the server behind it."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from nota_cli.assets import home
from nota_cli.console import say, warn
from nota_cli.data.annotation import read_annotation
from nota_cli.demo.markup import CSS, EMPTY_PICTURE, TITLE, waiting_card
from nota_cli.demo.recording import Limits
from nota_cli.demo.session import System
from nota_cli.demo.visit import NONE, TASKS, draw_recording, listen
from nota_cli.errors import UsageError

KEPT_SECONDS = 600  # that a recording lies in the temporary folder
LOOK_SECONDS = 60  # between two looks for such as have lain there longer
MOST_WAITING = 16  # visitors in the queue
SAMPLES_OF_TASK = 4
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Server:
    """Where the page is served.

    Attributes:
        host: the address to listen on.
        port: None takes the first free one from 7860 on.
        share: open a public link through gradio's servers.
        browser: open the page in this machine's browser.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    browser: bool = False


@dataclass(frozen=True)
class Sample:
    """A recording that ships with nota.

    Attributes:
        path: a copy of it, of which gradio serves copies of its own, which it deletes as it does visitors' recordings.
        label: on its button.
        task: what to ask of it, one of `TASKS`.
    """

    path: Path
    label: str
    task: str


def copy_samples(folder: Path) -> list[Sample]:
    """The first shipped recordings of each task, copied into a folder."""
    source = home() / "checkpoints" / "tiny" / "samples"
    samples = []
    for name, task in (("aac", "What is heard"), ("asr", "What is said")):
        for row in read_annotation(source / f"{name}.json")[:SAMPLES_OF_TASK]:
            path = folder / Path(row.path).name
            shutil.copyfile(source / row.path, path)
            label = " ".join(path.stem.removeprefix("digits-")) if name == "asr" else path.stem.replace("-", " ")
            samples.append(Sample(path, label, task))
    return samples


def build_page(systems: Sequence[System], limits: Limits, samples: Sequence[Sample]) -> Any:
    """The page as gradio's `Blocks`.

    Args:
        systems: models that visitors may ask; the first is chosen, the second beside it where there are several.
        limits: what recordings may be.
        samples: examples, a button each.
    """
    import gradio as gr

    names = [system.name for system in systems]
    by_name = {system.name: system for system in systems}
    several = len(systems) > 1

    def on_recording(path: str | None) -> str:
        return draw_recording(path_of(path), systems, limits)

    def on_task(task: str) -> Any:
        return gr.update(visible=TASKS[task] == "qa")

    def on_listen(path: str | None, task: str, question: str, first: str, second: str) -> Iterator[list[Any]]:
        chosen = [by_name[name] for name in (first, second) if name in by_name]
        for cards in listen(path_of(path), task, question or "", chosen, limits):
            beside = cards[1] if len(cards) > 1 else ""
            yield [cards[0], gr.update(value=beside, visible=bool(beside))]

    with gr.Blocks(title="nota", delete_cache=(LOOK_SECONDS, KEPT_SECONDS), analytics_enabled=False) as page:
        gr.HTML(TITLE)
        with gr.Row(equal_height=True):
            with gr.Column(min_width=300):
                recording = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Recording",
                    buttons=[],
                    elem_id="recording",
                )
            with gr.Column(min_width=300, elem_classes="nota-picture-column"):
                view = gr.HTML(EMPTY_PICTURE, elem_id="picture")
        with gr.Row(elem_classes="nota-examples"):
            gr.HTML('<span class="nota-label">Examples</span>')
            buttons = [gr.Button(sample.label, size="sm", elem_classes="nota-example") for sample in samples]
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                task = gr.Radio(list(TASKS), value=next(iter(TASKS)), label="Ask for", elem_id="task")
            first = gr.Dropdown(names, value=names[0], label="Recipe", visible=several, min_width=140, elem_id="first")
            second = gr.Dropdown(
                [NONE, *names],
                value=names[1] if several else NONE,
                label="Beside it",
                visible=several,
                min_width=140,
                elem_id="second",
            )
        question = gr.Textbox(
            label="Question",
            placeholder="Is there a dog?",
            info="For recipes that were trained on questions; the shipped tiny was not.",
            visible=False,
            max_length=500,
            elem_id="question",
        )
        button = gr.Button("Listen", variant="primary", size="lg", elem_id="listen")
        with gr.Row(equal_height=True, elem_classes="nota-answers"):
            left = gr.HTML(waiting_card(names[0]), elem_id="answer")
            right = gr.HTML(waiting_card(names[1]) if several else "", elem_id="answer-beside", visible=several)
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        recording.change(on_recording, recording, view, concurrency_limit=2, **quiet)
        task.change(on_task, task, question, queue=False, **quiet)
        for sample, each in zip(samples, buttons, strict=True):
            each.click(lambda chosen=sample: (str(chosen.path), chosen.task), None, [recording, task], **quiet)
        inputs = [recording, task, question, first, second]
        gr.on(
            [button.click, question.submit],
            on_listen,
            inputs,
            [left, right],
            concurrency_limit=1,
            api_visibility="private",
            show_progress="minimal",
        )
    page.queue(max_size=MOST_WAITING, api_open=False)
    return page


def path_of(path: str | None) -> Path | None:
    """What gradio gives of a recording."""
    return Path(path) if path else None


def serve(systems: Sequence[System], limits: Limits, server: Server) -> None:
    """Serve the page until Ctrl-C or SIGTERM; recordings lie in a temporary folder, which is removed at the end.

    Raises:
        UsageError: the port is taken, or the address is not this machine's.
    """
    if server.host not in LOOPBACK:
        warn(f"--host {server.host}: everyone who reaches this machine can use the page")
    with tempfile.TemporaryDirectory(prefix="nota-demo-") as folder:
        kept = Path(folder) / "samples"
        kept.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(folder, "recordings")  # read when gradio is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import gradio as gr

        samples = copy_samples(kept)
        for system in systems:
            next(system.answer(samples[0].path, "aac"))  # the first of all answers would take longer than the others
        page = build_page(systems, limits, samples)
        theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"])
        theme.set(body_text_color_subdued="*neutral_500", block_label_text_color="*neutral_600")
        signal.signal(signal.SIGTERM, _end)
        try:
            _, url, public = page.launch(
                server_name=server.host,
                server_port=server.port,
                share=server.share,
                inbrowser=server.browser,
                max_file_size=f"{limits.megabytes}mb",
                allowed_paths=[str(kept)],
                theme=theme,
                css=CSS,
                quiet=True,
                footer_links=[],
                ssr_mode=False,
                enable_monitoring=False,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise UsageError(f"the page cannot be served on {server.host}: {error}. Choose another --port.") from None
        say(f"the page is at {public or url} (Ctrl-C ends it)")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("the page is closed")
        finally:
            page.close(verbose=False)


def _end(number: int, frame: FrameType | None) -> None:
    """A way out that removes the temporary folder."""
    sys.exit(0)
