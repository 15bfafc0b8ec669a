"""A world of one's own: namespaces, a root that holds the interpreter and little else, and no privileges."""

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from . import syscalls
from .syscalls import prctl, syscall

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
INSIDE_ID = 1000  # what the unprivileged user is called inside its user namespace
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


@dataclass(frozen=True)
class Root:
    """What the new root holds."""

    readable: tuple[str, ...]
    """Files and directories bound read-only at their own paths."""
    hidden: tuple[str, ...]
    """Directories below those that appear empty."""
    scratch: str
    """The one writable directory."""
    scratch_bytes: int
    scratch_inodes: int


def unshare() -> bool:
    """Leave the host's namespaces; the next fork is pid 1 of a new one. True if a user namespace was needed.

    Raises:
        OSError: neither this user nor a new user namespace may do it.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        with contextlib.suppress(PermissionError):
            syscall("unshare", ALL)
            return False
    syscall("unshare", ALL | CLONE_NEWUSER)
    with contextlib.suppress(FileNotFoundError):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{INSIDE_ID} {gid} 1")
    _write("/proc/self/uid_map", f"{INSIDE_ID} {uid} 1")
    return True


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    syscall(
        "mount",
        None if source is None else source.encode(),
        target.encode(),
        None if kind is None else kind.encode(),
        flags,
        data.encode() or None,
    )


def _make_read_only(path: str) -> None:
    """Read-only, without devices and set-uid, for the mount and all below it."""
    attributes = struct.pack("=QQQQ", MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    at_fdcwd, at_recursive = -100, 0x8000
    try:
        syscall("mount_setattr", at_fdcwd, path.encode(), at_recursive, attributes, len(attributes))
    except OSError:  # before Linux 5.12: the top mount alone, its atime flags kept
        _mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    _mount(source, target, None, MS_BIND | MS_REC)


def build_root(root: Root, uid: int, gid: int) -> int | None:
    """Make `root` the whole file system of this mount namespace and go to its scratch directory.

    Returns:
        An open /proc of this pid namespace that is mounted nowhere, None where it may not be mounted.
    Raises:
        OSError: a mount was refused.
    """
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    base = next(path for path in ("/tmp", "/mnt", "/var", "/usr") if os.path.isdir(path))
    sources = {path: os.path.realpath(path) for path in root.readable + DEVICES if os.path.exists(path)}
    _mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4k,mode=755")
    os.mkdir(f"{base}/.host")
    # the tmpfs stops covering `base` by becoming the root, so that an interpreter below /tmp is in reach again
    syscall("pivot_root", base.encode(), f"{base}/.host".encode())
    os.chdir("/")
    for path, source in sources.items():
        _bind(f"/.host{source}", path)
        if path not in DEVICES:
            _make_read_only(path)
    for path in root.hidden:
        if os.path.isdir(path):
            _mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,nr_inodes=1,mode=555")
    os.makedirs(root.scratch, exist_ok=True)
    size = f"size={root.scratch_bytes},nr_inodes={root.scratch_inodes + 1},mode=700,uid={uid},gid={gid}"
    _mount("tmpfs", root.scratch, "tmpfs", MS_NOSUID | MS_NODEV, size)
    proc = _open_proc("/.proc")
    syscall("umount2", b"/.host", MNT_DETACH)
    os.rmdir("/.host")
    _mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(root.scratch)
    with contextlib.suppress(OSError):
        socket.sethostname("sandbox")
    return proc


def _open_proc(place: str) -> int | None:
    os.mkdir(place)
    try:
        _mount("proc", place, "proc", MS_RDONLY | MS_NOSUID | MS_NODEV)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        syscall("umount2", place.encode(), MNT_DETACH)
        return descriptor
    except OSError:  # containers that mask parts of /proc allow no new one
        return None
    finally:
        os.rmdir(place)


def drop_privileges(uid: int | None, gid: int | None) -> None:
    """Give up every capability for good, and root's identity where another is given. Raises OSError."""
    for capability in range(64):
        try:
            prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError:  # the last capability was passed, or there is nothing to drop
            break
    with contextlib.suppress(OSError):
        prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    if uid is not None and gid is not None:
        with contextlib.suppress(PermissionError):
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    capability_version_3 = 0x20080522
    syscall("capset", struct.pack("=Ii", capability_version_3, 0), struct.pack("=6I", *[0] * 6))
    prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    prctl(syscalls.PR_SET_DUMPABLE, 0)
