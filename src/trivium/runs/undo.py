"""A run as it was before: what was written until the user's input turned out to be bad is taken back."""

import shutil
from pathlib import Path

from trivium.base.files import write_bytes
from trivium.runs.directory import RunDir, StageDir


class Kept:
    """The content of a few small files, to be put back."""

    def __init__(self, *paths: Path) -> None:
        self._contents = {path: path.read_bytes() if path.is_file() else None for path in paths}

    def restore(self) -> None:
        """Write them again as they were; those that were not there go."""
        for path, content in self._contents.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != content:
                write_bytes(path, content)


def keep_run(run: RunDir) -> Kept:
    """The files about a run as a whole."""
    return Kept(run.recipe_path, run.compute_path, run.lineage_path, run.outstanding_path)


class KeptStage:
    """A stage before it is opened, to be put back."""

    def __init__(self, stage: StageDir) -> None:
        self.stage = stage
        self._is_new = not stage.path.exists()
        self._checkpoints = self._present()
        self._files = Kept(stage.manifest_path, stage.config_path, stage.metrics_path)
        self._outstanding = Kept(stage.run.outstanding_path)
        self.forget()  # a killed process may have left one

    def restore(self) -> bool:
        """Put the stage back; False, and nothing done, where checkpoints have been written that would be lost."""
        stage = self.stage
        if stage.replaced.exists() and not self._present():
            shutil.rmtree(stage.path, ignore_errors=True)
            stage.replaced.rename(stage.path)
        elif self._present() != self._checkpoints:
            return False
        elif self._is_new:
            shutil.rmtree(stage.path, ignore_errors=True)
        else:
            self._files.restore()
        self._outstanding.restore()
        return True

    def forget(self) -> None:
        """Delete what `--force` replaced."""
        shutil.rmtree(self.stage.replaced, ignore_errors=True)

    def _present(self) -> list[str]:
        return sorted(path.name for path in self.stage.checkpoints.glob("*"))
