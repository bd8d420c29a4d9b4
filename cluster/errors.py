"""Errors a user can cause or meet. Each crosses processes, so each keeps its constructor arguments.

`ServiceError` and everything below it is shown as one message without a traceback.
"""


class ServiceError(Exception):
    """Something the user, a disk or a network got wrong; the message says what would be right."""


class ConfigError(ServiceError, ValueError):
    """A setting has a wrong value, or two settings contradict each other."""


class ResourceError(ServiceError):
    """The cluster does not have, or does not have in time, what a run asks for."""


class StorageError(ServiceError):
    """The place where runs are kept cannot be used."""


class RunError(ServiceError):
    """A run of that name exists and cannot be continued, or is live elsewhere."""


class RunInUseError(RunError):
    """Another live process works on the run."""


class TrackingError(ServiceError):
    """The tracking server does not answer."""


class LocatedError(ServiceError):
    """An error at a place in a file: `path`, an optional row, and what is wrong there."""

    def __init__(self, path: str, reason: str, row: int | None = None) -> None:
        super().__init__(path, reason, row)
        self.path, self.reason, self.row = path, reason, row

    def __str__(self) -> str:
        place = self.path if self.row is None else f"{self.path}, row {self.row}"
        return f"{place}: {self.reason}"


class DatasetError(LocatedError):
    """A dataset, its `data.yaml`, an image or a label file cannot be used."""


class CheckpointError(LocatedError):
    """A checkpoint or weights file is damaged, incomplete or belongs to another model."""


class TrainingError(ServiceError):
    """A run could not go on: it diverged, or lost more workers than it may."""
