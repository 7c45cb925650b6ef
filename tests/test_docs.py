"""Links between the project's pages lead somewhere."""

import re
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGE = re.compile(r"`((?:docs|benchmarks|checkpoints|configs|scripts|tests|nota_cli)/[\w./-]+\.(?:md|py|yaml|sh))`")


def anchors(page: Path) -> set[str]:
    """What `#...` may name on a page: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dead = [name for name in PAGE.findall(text) if "NAME" not in name and not (REPOSITORY / name).exists()]
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead
