"""From an exception to one line on standard error and an exit code."""

import errno
import os
import sys
import tempfile
import time
from pathlib import Path

from trivium.base.errors import Interrupted, TriviumError
from trivium.cli.invocation import Invocation

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def report(error: BaseException, invocation: Invocation) -> int:
    """Say what happened in one line; the exit code that goes with it. TRIVIUM_DEBUG=1 shows the traceback too."""
    if os.environ.get("TRIVIUM_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    rank = int(os.environ.get("RANK", "0"))
    if _is_parting(error):
        return _line("another rank of this run has ended; what it said is above.", 1) if rank == 0 else 1
    if rank and isinstance(error, KeyboardInterrupt | TriviumError):
        return 130 if isinstance(error, KeyboardInterrupt | Interrupted) else 1  # rank 0 says the same
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return _interrupted(error, invocation)
    if isinstance(error, TriviumError):
        return _line(str(error), error.exit_code)
    if isinstance(error, OSError) and error.errno is not None:
        return _line(_os_error(error, invocation), 1)
    if _is_out_of_memory(error):
        return _line("out of memory. Lower the batch sizes or the model's size, or close other programs.", 1)
    return _line(_bug(error, invocation), 1)


def _is_parting(error: BaseException) -> bool:
    """Whether it is only what a rank sees when another has gone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not isinstance(error, RuntimeError):
        return False
    return any(word in str(error) for word in ("gloo", "Connection closed by peer", "NCCL", "Connection reset"))


def _is_out_of_memory(error: BaseException) -> bool:
    """Whoever asked for it: Python, CUDA, or torch, whose allocator for the processor raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _line(text: str, code: int) -> int:
    print(f"trivium: {' '.join(text.split())}", file=sys.stderr)
    return code


def _interrupted(error: BaseException, invocation: Invocation) -> int:
    text = str(error) if isinstance(error, Interrupted) else "interrupted."
    go_on = f" Go on with: {invocation.resume_command}" if invocation.resumable else ""
    return _line(text + go_on, Interrupted.exit_code)


def _os_error(error: OSError, invocation: Invocation) -> str:
    where = f"{error.filename}: " if error.filename else ""
    again = f", then go on with: {invocation.resume_command}" if invocation.resumable else " and try again."
    if error.errno in NO_SPACE:
        return f"{where}no space is left on the disk. What was written before is whole. Free some space{again}"
    if error.errno == errno.EFBIG:
        return f"{where}the limit on the size of files is reached. What was written before is whole. Raise it{again}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}{error.strerror}. Check the permissions, or choose another place."
    return f"{where}{error.strerror}."


def _bug(error: BaseException, invocation: Invocation) -> str:
    summary = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    try:
        place = f"The traceback is in {_write_traceback(error, invocation)}; please report it"
    except OSError:
        place = "TRIVIUM_DEBUG=1 shows the traceback; please report it"
    return f"this is a bug in Trivium: {summary[:300]}. {place}."


def _write_traceback(error: BaseException, invocation: Invocation) -> Path:
    import platform
    import traceback

    known = invocation.directory is not None and invocation.directory.is_dir()
    folder = invocation.directory if known and invocation.directory else Path(tempfile.gettempdir())
    path = folder / f"trivium-crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    header = f"{invocation.resume_command}\nPython {platform.python_version()} on {platform.platform()}\n\n"
    path.write_text(header + "".join(traceback.format_exception(error)), encoding="utf-8")
    return path
