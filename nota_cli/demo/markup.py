"""The page's own pieces of HTML, and its style sheet."""

import html

from nota_cli.demo.recording import VisitorRecording, spoken_length
from nota_cli.demo.session import Answer, System

TITLE = """
<header class="nota-title"><h1>nota</h1><p>Small audio language models, on your own recordings.</p></header>
"""

EMPTY_PICTURE = (
    '<div class="nota-empty">Record with the microphone, upload a file, or take an example. '
    "The waveform and the spectrogram come here.</div>"
)

CSS = """
.gradio-container { max-width: 1040px !important; margin: 0 auto !important; padding: 0 !important; }
.gradio-container .app { padding: 12px 16px 32px !important; }
.gradio-container .html-container { padding: 0 !important; }
.nota-answers { flex-wrap: wrap !important; }
.nota-answers > * { min-width: min(320px, 100%) !important; }
.nota-picture-column > *, .nota-picture-column .html-container, .nota-picture-column .prose { height: 100%; }
.nota-title { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; padding: 6px 2px; }
.nota-title h1 { font-size: 30px; font-weight: 700; letter-spacing: -0.02em; margin: 0; color: var(--color-accent); }
.nota-title p { margin: 0; font-size: 16px; color: var(--body-text-color-subdued); }
.nota-examples { flex-wrap: wrap !important; gap: 8px !important; align-items: center; }
.nota-examples > * { flex: 0 0 auto !important; min-width: 0 !important; width: auto !important; }
.nota-examples button { border-radius: 999px !important; min-height: 36px; padding: 4px 14px !important; }
.nota-label { font-size: 14px; color: var(--body-text-color-subdued); white-space: nowrap; }
.nota-picture { margin: 0; }
.nota-picture svg { display: block; width: 100%; height: 80px; }
.nota-picture path { fill: var(--color-accent); }
.nota-spectrogram { position: relative; }
.nota-spectrogram img { display: block; width: 100%; height: 124px; border-radius: 6px; }
.nota-spectrogram b, .nota-spectrogram i { position: absolute; left: 8px; font: 12px system-ui, sans-serif;
  color: #fff; text-shadow: 0 0 4px #000, 0 0 2px #000; }
.nota-spectrogram b { top: 5px; } .nota-spectrogram i { bottom: 5px; }
.nota-ticks { display: flex; justify-content: space-between; font-size: 12px; padding-top: 3px;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.nota-empty { display: grid; place-items: center; min-height: 150px; height: 100%; padding: 16px; text-align: center;
  box-sizing: border-box; border: 1px dashed var(--border-color-primary); border-radius: 10px;
  color: var(--body-text-color-subdued); }
.nota-note { margin: 8px 0 0; font-size: 14px; color: var(--body-text-color-subdued); }
.nota-alert { margin: 0; padding: 12px 14px; border-radius: 10px; font-size: 15px; border-left: 4px solid #d97706;
  background: color-mix(in srgb, #d97706 12%, var(--background-fill-primary)); color: var(--body-text-color); }
.nota-answer { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 14px 16px;
  background: var(--background-fill-primary); min-height: 140px; box-sizing: border-box; }
.nota-answer h2 { margin: 0 0 6px; font-size: 14px; font-weight: 600; color: var(--body-text-color-subdued); }
.nota-answer .text { font-size: 22px; line-height: 1.4; min-height: 31px; margin: 0 0 10px; overflow-wrap: anywhere;
  color: var(--body-text-color); }
.nota-answer .text.waiting { color: var(--body-text-color-subdued); font-size: 16px; }
.nota-answer .growing::after { content: ""; display: inline-block; width: 9px; height: 20px; margin-left: 4px;
  vertical-align: -3px; background: var(--color-accent); animation: nota-blink 1s steps(2) infinite; }
@keyframes nota-blink { 50% { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .nota-answer .growing::after { animation: none; } }
.nota-answer dl { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px 14px; margin: 0;
  padding-top: 10px; border-top: 1px solid var(--border-color-primary); }
.nota-answer dt { font-size: 12px; color: var(--body-text-color-subdued); }
.nota-answer dd { margin: 0; font-size: 16px; font-weight: 600; font-variant-numeric: tabular-nums;
  color: var(--body-text-color); }
button:focus-visible, input:focus-visible, textarea:focus-visible, label:focus-within
  { outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }
"""


def alert(message: str) -> str:
    """What a visitor should know at once; screen readers read it out."""
    return f'<p class="nota-alert" role="alert">{html.escape(message)}</p>'


def notes_of(recording: VisitorRecording, heard_seconds: float) -> str:
    """Name and length of a recording, how much of it is heard, and what is odd about it."""
    lines = [f"{recording.name}, {spoken_length(recording.seconds)}."]
    if recording.seconds > heard_seconds:
        lines.append(f"The model hears the first {heard_seconds:g} s.")
    return f'<p class="nota-note">{html.escape(" ".join([*lines, *recording.notes]))}</p>'


def waiting_card(name: str, message: str = "The answer comes here.") -> str:
    """A model that has nothing said yet."""
    return _card(name, f'<p class="text waiting">{html.escape(message)}</p>')


def answer_card(system: System, answer: Answer) -> str:
    """A model's text so far, with its cost once it is whole."""
    if answer.cost is None:
        return _card(system.name, f'<p class="text growing">{html.escape(answer.text)}</p>')
    cost = answer.cost
    figures = {
        "First token": milliseconds(cost.first_token),
        "Per token": milliseconds(cost.per_token),
        "Tokens": str(cost.tokens or "–"),
        "In all": milliseconds(cost.seconds),
        "Weights": megabytes(system.weight_bytes),
        "Peak memory": megabytes(cost.peak_bytes),
    }
    titles = {
        "First token": "TTFT: from opening the recording to the first token",
        "Per token": "TPOT: for each token after the first, on average",
        "Peak memory": "Of the whole process on a CPU, of what torch allocated on a GPU",
    }
    items = "".join(
        f'<div title="{titles.get(name, "")}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in figures.items()
    )
    text = html.escape(answer.text) or "(nothing)"
    note = "" if cost.tokens else '<p class="nota-note">This recipe\'s search gives its text at once.</p>'
    return _card(system.name, f'<p class="text">{text}</p><dl>{items}</dl>{note}')


def milliseconds(seconds: float | None) -> str:
    """`1.8 ms`, `35 ms`, `2.4 s`, or a dash."""
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"


def megabytes(count: int | None) -> str:
    """`9.0 MB`, `2.1 GB`, or a dash."""
    if count is None:
        return "–"
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.{1 if count < 1e8 else 0}f} MB"


def _card(name: str, content: str) -> str:
    return f'<section class="nota-answer" aria-live="polite"><h2>{html.escape(name)}</h2>{content}</section>'
