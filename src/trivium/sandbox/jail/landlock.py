"""Landlock: the kernel refuses what files, TCP ports, abstract sockets and signals a program has no rule for.

Source: include/uapi/linux/landlock.h. The ruleset is made once per worker; each program restricts itself with it.
"""

import os
import struct
from collections.abc import Callable, Iterable

from .syscalls import prepare, syscall

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, REFER, TRUNCATE = 16, 32, 128, 256, 8192, 16384
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_RIGHTS = 3  # bind and connect TCP, from ABI 4
_SCOPES = 3  # abstract Unix sockets and signals, from ABI 6
READ = EXECUTE | READ_FILE | READ_DIR
SCRATCH = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE | REFER
_FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


def abi() -> int:
    """The kernel's Landlock version, 0 where it is missing, switched off or refused."""
    try:
        return syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def make_ruleset(readable: Iterable[str], devices: Iterable[str], scratch: str | None) -> int:
    """A ruleset that allows reading some trees, using some devices, and filling one directory.

    Paths that do not exist are left out. Returns a descriptor. Raises OSError.
    """
    version = abi()
    handled = _FS_RIGHTS[min(version, 5)]
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _NET_RIGHTS)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    for path in readable:
        _allow(ruleset, path, READ & handled)
    for path in devices:
        _allow(ruleset, path, (READ_FILE | WRITE_FILE) & handled)
    if scratch is not None:
        _allow(ruleset, scratch, SCRATCH & handled)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _FILE_ONLY
        path_beneath = 1
        syscall("landlock_add_rule", ruleset, path_beneath, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def restriction(ruleset: int) -> Callable[[], int]:
    """A call that puts the calling thread under the ruleset for good; needs `no_new_privs`. It raises OSError."""
    return prepare("landlock_restrict_self", ruleset, 0)
