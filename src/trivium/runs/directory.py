"""Where a run's and a stage's files stand, and the lock that keeps two processes apart."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trivium.base.errors import RunDirError
from trivium.base.files import sweep_drafts

SIMPLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunDir:
    """One run: `runs/<name>/` with its artifacts, its stages' folders and its tables. Nothing is created here."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def recipe_path(self) -> Path:
        """The recipe as resolved, every default written out."""
        return self.path / "recipe.toml"

    @property
    def compute_path(self) -> Path:
        """Device, precision and threads that the run was begun with."""
        return self.path / "compute.json"

    @property
    def outstanding_path(self) -> Path:
        """Which stages a forced run has still to replace; there only until it has."""
        return self.path / "outstanding.json"

    @property
    def lineage_path(self) -> Path:
        return self.path / "lineage.json"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def utility_path(self) -> Path:
        return self.path / "utility.jsonl"

    @property
    def preferences_path(self) -> Path:
        return self.path / "preferences.db"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def artifact(self, name: str) -> Path:
        """Folder of a result: `M0`, `M1`, `R`, `M2`, `tokenizer`, ..."""
        return self.path / _simple(name)

    def stage(self, name: str) -> "StageDir":
        return StageDir(self, _simple(name))

    def stages(self) -> list["StageDir"]:
        """The stages that left a manifest here, by name."""
        return [StageDir(self, path.parent.name) for path in sorted(self.path.glob("*/manifest.json"))]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel releases the lock however the process ends.

        A run in which nothing was written leaves no folder behind.

        Raises:
            RunDirError: another process holds it, or the folder cannot be written or locked.
        """
        lock_path = self.path / ".lock"
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunDirError(
                f"cannot write to the run directory {self.path}: {error.strerror or error}. Choose another place."
            ) from error
        try:
            self._take(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            sweep_drafts(self.path)
            yield
        finally:
            if made and os.listdir(self.path) == [lock_path.name]:
                lock_path.unlink()
                for folder in made:
                    with suppress(OSError):  # somebody else's files are in it by now
                        folder.rmdir()
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise RunDirError(
                f"{self.path} is in use by process {holder or 'unknown'}. "
                "Wait until it ends, stop it, or give this run another name."
            ) from error
        except OSError as error:
            raise RunDirError(
                f"{self.path} cannot be locked ({error.strerror or error}): its file system has no file locks. "
                "Put the run on a local disk."
            ) from error


class StageDir:
    """One stage of a run: `runs/<name>/<stage>/`. Nothing is created here.

    Args:
        elsewhere: the folder for the files of a process that only helps; it shares the checkpoints.
    """

    def __init__(self, run: RunDir, name: str, elsewhere: Path | None = None) -> None:
        self.run = run
        self.name = name
        self.path = (elsewhere or run.path) / name

    def __repr__(self) -> str:
        return f"StageDir({str(self.path)!r})"

    @property
    def replaced(self) -> Path:
        """Where `--force` puts the stage's folder until the new one stands."""
        return self.run.path / f".{self.name}.replaced"

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.run.path / self.name / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def part(self, name: str) -> "StageDir":
        """Metrics and checkpoints of a part of the stage's work, in folders of its own; the manifest is the stage's."""
        return _StagePart(self, _simple(name))


class _StagePart(StageDir):
    def __init__(self, whole: StageDir, part: str) -> None:
        super().__init__(whole.run, whole.name)
        self.path, self._whole, self._part = whole.path / part, whole, part

    @property
    def manifest_path(self) -> Path:
        return self._whole.manifest_path

    @property
    def checkpoints(self) -> Path:
        return self._whole.checkpoints / self._part  # cleared with the others


def _simple(name: str) -> str:
    """Names become folders that `--force` deletes: nothing that could lead elsewhere is accepted."""
    if not SIMPLE_NAME.fullmatch(name):
        raise RunDirError(f"{name!r} cannot name a stage or artifact. Use letters, digits, '.', '_' and '-'.")
    return name
