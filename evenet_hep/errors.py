"""Errors about what the user handed over. The command line prints them as one sentence and ends with code 1."""

from __future__ import annotations


class EveNetError(ValueError):
    """Base of all errors of this package that the user can mend."""


class SchemaError(EveNetError):
    """A schema that contradicts itself, or data that do not fit one."""


class InputError(EveNetError):
    """Events that cannot be turned into a cloud: a missing field, NaN, a negative pT."""


class FileError(EveNetError):
    """A file that is missing, of the wrong kind, or damaged."""


class ConfigError(EveNetError):
    """A configuration with an unknown key, a value of the wrong kind, or values that contradict each other."""


class CheckpointError(EveNetError):
    """A checkpoint that is missing, incomplete, or does not fit what was asked of it."""


class PredictionError(EveNetError):
    """A prediction that was asked for and cannot be made."""


class DistributedError(EveNetError):
    """A job on many workers that cannot go on: no workers, no scheduler, a full disk. What was done is kept."""
