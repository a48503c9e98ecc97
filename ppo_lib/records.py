"""Run folders: what a run leaves behind, how it resumes, and how its metrics are read again.

    run = RunFolder("runs/first")
    for metrics in drive(trainer, run):
        print(metrics["iteration"], metrics["score_mean"])

A folder holds ``config.yaml``, ``metrics.jsonl`` (one whole line per iteration), ``samples.jsonl``,
``checkpoints/``, and at the end ``model/`` and ``manifest.json``. Killed at any moment and started
again with ``resume=True``, a run ends with the same metrics as if never killed: what was written
after the last checkpoint is dropped, and those iterations are done again, bit for bit.
"""

from ppo_lib.driving import Interrupted, drive
from ppo_lib.manifests import manifest
from ppo_lib.recordings import RecordedRun, list_recorded, load_recorded, save_recorded
from ppo_lib.run_folders import RunFolder, Stage

__all__ = [
    "Interrupted",
    "RecordedRun",
    "RunFolder",
    "Stage",
    "drive",
    "list_recorded",
    "load_recorded",
    "manifest",
    "save_recorded",
]
