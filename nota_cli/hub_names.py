"""Names of repositories on the Hugging Face hub, and of files and folders in them."""

import re
from dataclasses import dataclass

NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")  # the hub's own rule
REVISION = re.compile(r"([^@]+)@(refs/pr/\d+|[A-Za-z0-9._-]+)(/.*)?")
FILE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


@dataclass(frozen=True)
class HubName:
    """A model repository on the hub, and a file or a folder in it, or neither for all that nota reads of it."""

    repo: str
    file: str | None = None
    folder: str | None = None
    revision: str | None = None
    """A branch, a tag, a commit, or a request to merge such as `refs/pr/70`; None for its main branch."""

    @property
    def inside(self) -> str:
        """The file or folder in it; nothing for the repository itself."""
        return self.file or self.folder or ""

    @property
    def spelled(self) -> str:
        """As a recipe names it."""
        repo = self.repo if self.revision is None else f"{self.repo}@{self.revision}"
        return f"{repo}/{self.inside}" if self.inside else repo


def hub_name(path: str) -> HubName | None:
    """`org/name`, `org/name/file.pt` or `org/name/folder` taken apart; None for what cannot be a name on the hub.

    `@` and a revision may follow the repository's name.
    """
    revision = None
    if match := REVISION.fullmatch(path):
        path, revision = match[1] + (match[3] or ""), match[2]
    owner, *names = path.split("/")
    inside = names[1:]
    if not names or not NAME.fullmatch(owner) or not NAME.fullmatch(names[0]):
        return None
    is_file = path.endswith(FILE_SUFFIXES)
    if (is_file and not inside) or any(piece in ("", ".", "..") for piece in inside):
        return None
    name, joined = f"{owner}/{names[0]}", "/".join(inside) or None
    return HubName(name, joined if is_file else None, None if is_file else joined, revision)
