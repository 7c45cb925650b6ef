"""Links between the project's pages lead somewhere."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers.paths import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
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


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "zensical"
    if not program.exists():
        pytest.skip("needs zensical: pip install -e '.[docs]'")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)  # the site is made beside it
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    (tmp_path / "nota_cli").symlink_to(REPOSITORY / "nota_cli")
    done = subprocess.run([program, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "transcribe" in (tmp_path / "site" / "api" / "audiolm" / "index.html").read_text(encoding="utf-8")


def test_the_lock_has_every_dependency_in_a_version_that_is_asked_for() -> None:
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", lock, re.MULTILINE))
    for line in map(Requirement, wanted):
        assert line.specifier.contains(pinned[line.name], prereleases=True), line
    assert lock.count("--hash=sha256:") >= len(pinned) > 50
