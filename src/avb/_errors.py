"""The exceptions that a user of the library can cause and mend.

Each message is one clear sentence that names the cause and the way out; the command
line prints it as it stands, without a traceback.
"""


class AvbError(Exception):
    """Base of every error that the caller can mend."""


class DataError(AvbError, ValueError):
    """The data cannot be used: missing, corrupt, of the wrong shape or range."""


class ConfigError(AvbError, ValueError):
    """Settings or parts that do not fit each other."""


class RunError(AvbError, RuntimeError):
    """A run folder that cannot be used: half-written, of another version, in use."""


class TrainingError(AvbError, RuntimeError):
    """Training stopped because a part kept giving non-finite values.

    Attributes:
        state: The state of training with the last good parameters.
    """

    def __init__(self, message: str, *, state: object):
        super().__init__(message)
        self.state = state
