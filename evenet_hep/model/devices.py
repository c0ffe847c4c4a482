"""Where a network runs."""

from __future__ import annotations

import torch

from evenet_hep.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device of a name that a user gave.

    Parameters
    ----------
    name : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the first GPU, or the CPU where there is none.

    Raises
    ------
    ConfigError
        For another name, and for a GPU that is not there.

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
    if device.type == "cuda" and not torch.cuda.is_available():
        msg = f"device {name!r} was asked for, but this process sees no GPU"
        raise ConfigError(msg)
    return device
