"""Where a network runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evenet_hep.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device of a name that a user gave.

    Parameters
    ----------
    name : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the first GPU, or the CPU where there is none. Other
        kinds that PyTorch knows are taken as they are; nothing here was tried on them.

    Raises
    ------
    ConfigError
        For a name that PyTorch does not know, and for a GPU that is not there.

    Examples
    --------
    >>> find_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1'; found {name!r}"
        raise ConfigError(msg) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        number = torch.cuda.device_count()
        seen = "no GPU" if number == 0 else f"{number} of them, counted from cuda:0"
        msg = f"device {name!r} was asked for, but this process sees {seen}"
        raise ConfigError(msg)
    return device


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context with PyTorch's random numbers from a seed, on all devices; the caller's go on behind it.

    Examples
    --------
    >>> with seeded(1):
    ...     first = torch.rand(2)
    >>> with seeded(1):
    ...     torch.equal(first, torch.rand(2))
    True
    """
    in_use = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=in_use):
        torch.manual_seed(seed)
        yield
