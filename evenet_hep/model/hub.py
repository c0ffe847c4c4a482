"""Weights from the Hugging Face hub, through the extra ``hub``. Files are kept in the cache of that library."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from evenet_hep.errors import CheckpointError
from evenet_hep.model.checkpoint import CARD, CONFIG, SCHEMA, WEIGHTS

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w./-]+))?")


def is_hub_name(source: str | Path) -> bool:
    """Whether something that is no path on this machine can be a name on the hub.

    Examples
    --------
    >>> is_hub_name("owner/network"), is_hub_name("owner/network/last.ckpt"), is_hub_name("/tmp/network")
    (True, True, False)
    """
    return not Path(source).expanduser().exists() and NAME.fullmatch(str(source)) is not None


def fetch(name: str, *, revision: str | None = None) -> Path:
    """Download a network, or take it from the cache.

    Parameters
    ----------
    name : str
        ``owner/network`` for a checkpoint folder, ``owner/network/file.ckpt`` for one file of the published training.
    revision : str, optional
        Branch, tag or commit; the main branch if left out. Name a commit where a result has to last.

    Returns
    -------
    Path
        The folder, or the file.

    Raises
    ------
    CheckpointError
        If the extra is not installed, the hub cannot be reached and the cache has nothing, or there is no such
        network, revision or file.
    """
    match = NAME.fullmatch(name)
    if match is None:
        msg = f"a network on the hub is called owner/network or owner/network/file.ckpt; found {name!r}"
        raise CheckpointError(msg)
    if match["file"]:
        return _download(match["repo"], match["file"], revision)
    paths = [_download(match["repo"], file, revision) for file in (CONFIG, SCHEMA, WEIGHTS)]
    with contextlib.suppress(CheckpointError):  # a network without a card is still a network
        _download(match["repo"], CARD, revision)
    return paths[0].parent


def _download(repo: str, file: str, revision: str | None) -> Path:
    try:
        import huggingface_hub  # noqa: PLC0415  an extra
        from huggingface_hub import errors  # noqa: PLC0415
    except ImportError as error:
        msg = f"{repo} is not a path on this machine; for the hub install evenet-hep[hub]"
        raise CheckpointError(msg) from error
    where = f"{repo}, revision {revision}" if revision else repo
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        msg = f"cannot reach the hub, and {file} of {where} is not in the cache"
        raise CheckpointError(msg) from error
    except errors.EntryNotFoundError as error:
        msg = f"{where} has no file {file}"
        raise CheckpointError(msg) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        msg = f"{where} is neither a path on this machine nor a network on the hub that you may read"
        raise CheckpointError(msg) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        msg = f"cannot fetch {file} of {where}: {error}"
        raise CheckpointError(msg) from error
