"""The picture at the top of the README: two commands and what they print, as a terminal shows it.

    python scripts/readme_picture.py docs/images/terminal.svg

Both are run on the shipped model and recordings; nothing is written by hand.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
SAMPLES = "checkpoints/tiny/samples/audio"
COMMANDS = (
    ["nota", "transcribe", f"{SAMPLES}/digits-371.flac"],
    ["nota", "caption", f"{SAMPLES}/rain.flac", f"{SAMPLES}/clock-tick.flac"],
    ["nota", "recipes", "show", "tiny"],
)
LINES = 20  # of a command's output that are shown


def main(out: Path) -> None:
    console = Console(record=True, width=110, file=open("/dev/null", "w"))  # noqa: SIM115
    for command in COMMANDS:
        console.print(Text.assemble(("$ ", "green"), " ".join(command)))
        wide = {**os.environ, "COLUMNS": "110"}
        done = subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, check=True)
        shown = done.stdout.rstrip().splitlines()
        console.print(Text("\n".join(shown[:LINES])))
    picture = console.export_svg(title="nota")
    picture = re.sub(r"@font-face \{.*?\n    \}", "", picture, flags=re.DOTALL)  # no font from elsewhere
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(picture.replace("Fira Code, monospace", "monospace"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
