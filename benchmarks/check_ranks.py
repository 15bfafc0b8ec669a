"""Two ranks against one: a small run under `torchrun`, killed, restarted, resharded, and compared with one left alone.

    make check-ranks

The run goes through all stages. Rank 1 is killed during pretraining and during RL, and `torchrun --max-restarts` goes
on from the checkpoint; `torchrun` itself gets SIGTERM during fine-tuning, and one process goes on; that one gets
SIGTERM during the reward model's training, and two ranks go on. The weights of M0, M1, R and M2 are compared with those
of a run of one process that nobody disturbed: they differ by the rounding of sums taken in another order.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from check_resume import FLAGS, ROOT
from safetensors.torch import load_file

TOLERANCE = 1e-4
"""Largest difference of a weight: two ranks add the same numbers in another order, and Adam magnifies what is small."""
LONGER = "--pretrain.steps 12 --sft.checkpoint_every 1 --reward.checkpoint_every 1"
SECONDS = 240
"""A process that takes longer hangs."""


def start(
    folder: Path, name: str, ranks: int, command: Sequence[str] = ("run",), restarts: int = 3
) -> subprocess.Popen[str]:
    """The command line on so many ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    launcher += ["--max-restarts", str(restarts)]
    arguments = [*command, *FLAGS.split(), *LONGER.split(), "--runs_dir", "runs", "--name", name, "--json"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # restarted workers must not meet in the old store
    }
    return subprocess.Popen(
        [sys.executable, *(launcher if ranks > 1 else []), "-m", "trivium", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_rank(process: subprocess.Popen[str], rank: int) -> None:
    """SIGKILL to one of the ranks that `torchrun` has started."""
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):
            if child.environ().get("RANK") == str(rank):
                child.kill()
                return
    raise RuntimeError(f"there is no rank {rank}")


def wait_for(process: subprocess.Popen[str], met: Callable[[], bool]) -> None:
    """Until something is there; an error where the process ends before."""
    began = time.monotonic()
    while not met():
        if process.poll() is not None or time.monotonic() - began > SECONDS:
            stop(process)
            raise RuntimeError(f"the run ended too early or hangs:\n{process.communicate()[0]}")
        time.sleep(0.005)


def stop(process: subprocess.Popen[str]) -> None:
    """Whatever is left of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen[str], expected: bool = True) -> str:
    """What it said to its end."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        stop(process)
        output, _ = process.communicate()
        raise RuntimeError(f"the run hangs:\n{output}") from None
    if (process.returncode == 0) != expected:
        raise RuntimeError(f"exit code {process.returncode}:\n{output}")
    return output


def checkpointed(folder: Path, stage: str, step: int) -> Callable[[], bool]:
    """Whether a stage has come to a step, and is not over."""
    place = folder / stage / "checkpoints"
    return lambda: any(int(path.name[5:]) >= step for path in place.glob("step-*"))


def difference(one: Path, other: Path, name: str) -> float:
    """The largest between the weights of two models."""
    left, right = (load_file(folder / name / "model.safetensors") for folder in (one, other))
    if left.keys() != right.keys():
        raise RuntimeError(f"{name} of {one} and {other} hold different weights")
    return max((left[key].float() - right[key].float()).abs().max().item() for key in left)


def files_of(folder: Path, stage: str) -> int:
    """How many files of tensors a stage's newest checkpoint has."""
    newest = max((folder / stage / "checkpoints").glob("step-*"))
    return len(json.loads((newest / "state.json").read_text())["tensors"])


def check(folder: Path) -> float:
    """The whole of it, told as it goes; the largest difference of a weight."""
    run, began = folder / "runs" / "spread", time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    finish(start(folder, "alone", 1))
    tell("one process, undisturbed: done")
    process = start(folder, "spread", 2)
    wait_for(process, checkpointed(run, "pretrain", 4))
    kill_rank(process, 1)
    tell("two ranks: rank 1 killed in pretraining, after step 4 of 12")
    wait_for(process, checkpointed(run, "sft", 3))
    tell(f"torchrun restarted both; M0 is there, and fine-tuning at step 3, in {files_of(run, 'sft')} files")
    process.send_signal(signal.SIGTERM)
    finish(process, expected=False)
    tell("SIGTERM to torchrun: both ranks left at the same step, with a checkpoint")
    process = start(folder, "spread", 1)
    wait_for(process, checkpointed(run, "reward", 2))
    process.send_signal(signal.SIGTERM)
    finish(process, expected=False)
    tell(f"one process went on from it to the reward model, and got SIGTERM: {files_of(run, 'reward')} file")
    process = start(folder, "spread", 2)
    wait_for(process, checkpointed(run, "rl", 1))
    kill_rank(process, 1)
    tell("two ranks went on; rank 1 killed in RL, after step 1")
    finish(process)
    tell("torchrun restarted both; the run is done")
    worst = 0.0
    for name in ("M0", "M1", "R", "M2"):
        worst = max(worst, found := difference(folder / "runs" / "alone", run, name))
        tell(f"{name}: largest difference of a weight {found:.1e}")
    return worst


def main() -> int:
    """Check, tell, and say whether it held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        held = check(Path(folder)) <= TOLERANCE
    print("equal" if held else f"MISSED: a weight differs by more than {TOLERANCE}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
