"""The tree of errors. What a user can cause is an `InputError`; the rest ended a run.

Every message says what was wrong, which value, where, and what to do.
"""


class TriviumError(Exception):
    """Root of all errors raised on purpose. The command line exits with `exit_code`."""

    exit_code = 1


class InputError(TriviumError, ValueError):
    """The user's input was wrong: a flag, a recipe, a file, a path."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe or flag has an unknown key, a wrong type or a value out of range."""


class DataError(InputError):
    """A corpus, SFT, preference or task file cannot be used: names file, line, field, reason."""


class ModelError(InputError):
    """A model or tokenizer directory is missing, incomplete or of an unsupported kind."""


class RunDirError(InputError):
    """A run directory holds something else than asked for, or is in use by another process."""


class SandboxError(TriviumError, RuntimeError):
    """The machine cannot confine programs as required, or the sandbox itself broke."""


class StageFailed(TriviumError, RuntimeError):
    """A stage stopped by its own checks: NaN loss, a reward model no better than chance, ..."""


class NumericalFault(StageFailed):
    """A loss or gradient is NaN, infinite or exploded; no weight has been changed by it."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}; the weights are as they were before it. "
            "Lower the learning rate, or look at the data or the rewards of this step."
        )
        self.what = what


class Interrupted(TriviumError):
    """Ctrl-C or SIGTERM; the run directory is resumable."""

    exit_code = 130


class StopSignal(KeyboardInterrupt):
    """What Ctrl-C and SIGTERM raise here, wherever the program is.

    A type of its own: Python remembers a plain KeyboardInterrupt that passed through `exec` of a text, as the making
    of a dataclass is, and at its end kills itself by SIGINT, whatever exit code was asked for.
    """
