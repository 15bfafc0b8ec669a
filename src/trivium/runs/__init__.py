"""Runs on disk: directories, manifests, metrics and lineage. The layout is described in docs/runs.md."""

from trivium.runs.directory import RunDir, StageDir
from trivium.runs.lineage import gather_lineage, list_runs, runs_table, write_lineage
from trivium.runs.manifest import Manifest, add_warning, close_stage, open_stage, read_manifest, record_machine
from trivium.runs.metrics import MetricsLog, read_metrics
from trivium.runs.undo import KeptStage, keep_run

__all__ = [
    "KeptStage",
    "Manifest",
    "MetricsLog",
    "RunDir",
    "StageDir",
    "add_warning",
    "close_stage",
    "gather_lineage",
    "keep_run",
    "list_runs",
    "open_stage",
    "read_manifest",
    "read_metrics",
    "record_machine",
    "runs_table",
    "write_lineage",
]
