"""Paths as people write them: `~` and `file://`, rows' audio under its root, and near names of what is not there."""

import functools
import glob
import os
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from nota_cli.errors import UsageError, printable

MOST_NEAR = 3  # near names in one message
_WEB_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]+")
_BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

_ALIKE: dict[str, Callable[[str], str]] = {
    "percent-encoding": unquote,
    "Unicode form": lambda name: unicodedata.normalize("NFC", name),
    "capital letters": str.casefold,
    "blanks or invisible characters": lambda name: _INVISIBLE.sub("", name),
    "hyphens or underscores": lambda name: re.sub("[-_]", "", name),
    "ending": lambda name: os.path.splitext(name)[0] or name,
}
"""What two names may differ in and still mean the same file, and how each is taken away."""


def expand_path(text: str) -> str:
    """A path that a recipe or a flag gives, with `~`, `~user` and `file://` written out.

    Raises:
        ValueError: there is no such user, or the address names another machine.
    """
    if text.startswith("file:/"):
        address = urlsplit(text)
        if address.netloc not in ("", "localhost"):
            raise ValueError(f"{text}: a file on another machine; copy it here, and name it by its path")
        return unquote(address.path)
    if not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.split("/", 1)[0]
        raise ValueError(f"{text}: there is no user {user[1:]!r}; a file of that name wants its full path")
    return expanded


def audio_path(root: str | os.PathLike[str], name: str) -> str:
    """Where a row's audio lies: `name` under `root`.

    The organisers form prefix + "/" + path, so that a path that begins with "/" is looked for under the root as well;
    an absolute one that lies in the root already, or is nowhere under it, stays as it is.
    """
    under = os.path.join(root, name)
    if name.startswith(("~", "file:/")) and not os.path.lexists(under):
        try:
            name = expand_path(name)
        except ValueError:
            return under
    if os.path.isabs(name) and not (is_inside(root, name) and os.path.lexists(name)):
        under = os.path.join(root, name.lstrip("/"))
        return under if os.path.lexists(under) else name
    return os.path.join(root, name)


def tar_member(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Tar file and name of the member that a path such as `shard-0001.tar/000123.flac` means; None of other paths."""
    text = os.fspath(path)
    end = text.find(".tar/") + 4
    return (text[:end], os.path.normpath(text[end + 1 :])) if end > 3 and os.path.isfile(text[:end]) else None


def shard_files(text: str) -> list[str]:
    """The files that `shard-{0000..0127}.tar`, `{one,two}.tar` or `shard-*.tar` means, in order; of other paths itself.

    A file of that very name comes first; what means no file stays as it is written.
    """
    if not text.endswith(".tar") or os.path.lexists(text):
        return [text]
    braces = _BRACES.search(text)
    if braces is not None:
        before, after = text[: braces.start()], text[braces.end() :]
        return [file for middle in _alternatives(braces[1]) for file in shard_files(before + middle + after)]
    return sorted(glob.glob(text)) or [text]


def _alternatives(text: str) -> list[str]:
    """What stands between braces, as a shell writes it: `0000..0127` with the zeros of its first number, or `a,b`."""
    bounds = _RANGE.fullmatch(text)
    if bounds is None:
        return text.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    step = 1 if first <= last else -1
    return [str(number).zfill(len(bounds[1])) for number in range(first, last + step, step)]


def is_inside(root: str | os.PathLike[str], path: str) -> bool:
    """Whether a path lies under a folder by its name; where symbolic links in it lead is their owner's business."""
    folders = {os.path.abspath(root), os.path.realpath(root)}
    return os.path.join(os.path.abspath(path), "").startswith(tuple(os.path.join(folder, "") for folder in folders))


def check_audio_root(root: str | os.PathLike[str]) -> None:
    """One error for a folder that is not there, instead of one for each row.

    Raises:
        UsageError: it is no folder.
    """
    if os.path.isdir(root):
        return
    label = printable(os.fspath(root))
    if os.path.lexists(root):
        raise UsageError(f"the audio root {label} is no folder. Name the one that the paths of the rows begin in.")
    note = path_note(os.fspath(root)) or "Correct it, or name another one by --audio-root."
    raise UsageError(f"the audio root {label} is no folder that is there. {note}")


def path_note(name: str, root: str | os.PathLike[str] = "") -> str | None:
    """A sentence for a path that is not there: the near ones that are, and what differs, or what the path is instead.

    Args:
        name: the path as it was written.
        root: the folder that it is relative to.
    """
    if _WEB_ADDRESS.match(name) and not name.startswith("file:/"):
        return "It is a web address: download the file, and name it by its path."
    if "$" in name and os.path.expandvars(name) != name:
        return "Environment variables in paths are not expanded: write it out."
    near = near_paths(name, root)
    if near:
        listed = " or ".join(f"{printable(path)}, which differs in {' and '.join(what)}" for path, what in near)
        return f"There is {listed}."
    return None


def near_paths(name: str, root: str | os.PathLike[str] = "") -> list[tuple[str, list[str]]]:
    """Files and folders that a path may mean, each with what differs; the nearest first, none for one that is there."""
    try:
        plain = name.replace("\\", "/")
        slashes = ["backslashes"] if "\\" in name else []
        if name.startswith("file:/"):
            plain = expand_path(name)
        if plain.endswith("/"):
            plain, slashes = plain.rstrip("/"), [*slashes, "a slash at the end"]
        parts = [part for part in plain.split("/") if part not in ("", ".")]
        start = os.fspath(root) or ("/" if plain.startswith("/") else "")
        for skip in range(len(parts) if root else min(1, len(parts))):
            front = [f"the folder {'/'.join(parts[:skip])}/ in front"] if skip else []
            near = [(path, slashes + front + what) for path, what in _walk(start, parts[skip:])]
            near = [(path, what) for path, what in near if what]
            if near:
                return sorted(near, key=lambda one: (len(one[1]), one[0]))[:MOST_NEAR]
    except (OSError, ValueError):  # a name that no file can have, or a folder that may not be read
        pass
    return []


def _walk(folder: str, parts: list[str]) -> list[tuple[str, list[str]]]:
    """What lies under a folder by names like `parts`, one component after the other."""
    paths: list[tuple[str, list[str]]] = [(folder, [])]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        following: list[tuple[str, list[str]]] = []
        for path, what in paths:
            exact = os.path.join(path, part)
            if os.path.lexists(exact):
                following.append((exact, what))
                continue
            for name in _like(path or ".", part, last):
                here = what + [each for each in _differences(part, name) if each not in what]
                following.append((os.path.join(path, name), here))
        paths = following
    return paths


def _like(folder: str, name: str, last: bool) -> list[str]:
    if not os.path.isdir(folder):
        return []
    names = _index(folder, os.stat(folder).st_mtime_ns).get(_without(name), [])
    return [each for each in names if last or os.path.isdir(os.path.join(folder, each))]


@functools.lru_cache(maxsize=8)
def _index(folder: str, _changed: int) -> dict[str, list[str]]:
    """The names in a folder by what is left of them; read once while it does not change."""
    index: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        if not name.startswith("."):
            index.setdefault(_without(name), []).append(name)
    return index


def _without(name: str, *, keep: str | None = None) -> str:
    """A name without all that two names may differ in, but for `keep`."""
    for what, take_away in _ALIKE.items():
        if what != keep:
            name = take_away(name)
    return name


def _differences(written: str, there: str) -> list[str]:
    differences = []
    for what in _ALIKE:
        if _without(written, keep=what) == _without(there, keep=what):
            continue
        if what == "ending":
            ours, theirs = (os.path.splitext(name)[1] or "none" for name in (written, there))
            what = f"its ending ({theirs}, not {ours})"
        elif what == "Unicode form":
            what = f"its Unicode form ({_form(there)}, not {_form(written)})"
        differences.append(what)
    # Two of them may do the same, as for .FLAC and .flac: then neither alone is missed.
    return differences or [what for what, take_away in _ALIKE.items() if take_away(written) == take_away(there)][:1]


def _form(name: str) -> str:
    forms = [form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)]
    return forms[0] if forms else "neither NFC nor NFD"
