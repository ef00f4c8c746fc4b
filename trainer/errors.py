"""The errors a user can meet, each with the exit code of its kind.

An error's text is one line: what is wrong, where, and what to do. The doors (commands, `train(...)`) print it
and leave with `exit_code`; everything that is not one of these is a defect and keeps its traceback (code 1).
"""


class TrainerError(Exception):
    """Base of all errors that are the user's or the world's, not ours."""

    exit_code = 1


class SettingsError(TrainerError):
    """A setting or the command line is wrong; a retry will not help."""

    exit_code = 2


class DataError(TrainerError):
    """The data are missing, damaged or not what the settings say."""

    exit_code = 3


class RunError(TrainerError):
    """The run cannot go on: diverged, a budget is used up, or its checkpoint was refused."""

    exit_code = 4


class InfrastructureError(TrainerError):
    """Storage, network, a peer or the disk failed; the same start may work later."""

    exit_code = 170


class PeerLostError(InfrastructureError):
    """Another process of this run is gone or silent: killed for memory, say, together with its node or alone."""


class StoreRefusedError(InfrastructureError):
    """The store answers and says no (keys, rights, bucket, clock); as it stands a retry will not help."""

    exit_code = 5


class PreflightError(TrainerError):
    """The machine or pod is not what the settings need; a retry will not mend that."""

    exit_code = 5


class SupersededError(TrainerError):
    """A newer attempt owns the run; this one must not write any more."""

    exit_code = 171


class Stopped(TrainerError):
    """The run was told to stop and its checkpoint is published."""

    exit_code = 143
