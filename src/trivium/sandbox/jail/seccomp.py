"""Seccomp filters in classic BPF: one long allowlist per worker, one short filter per program.

The allowlist is installed once, as its compilation costs a quarter of a millisecond; what must differ between the
worker and its programs (no new processes, signals to oneself only) is a second filter of some forty instructions.
"""

import ctypes
import struct
from functools import partial

from .syscalls import AARCH64, MACHINE, PR_GET_NAME, PR_SET_NAME, X86_64, number, prepare

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
AUDIT_ARCHS = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
X32_BIT = 0x40000000
CLONE_THREAD = 0x00010000
CLONE_NEW = 0x7E020080  # every namespace flag, CLONE_NEWTIME included
O_WRITING = 0x1 | 0x2 | 0x40 | 0x200 | 0x400000  # O_WRONLY O_RDWR O_CREAT O_TRUNC, and O_TMPFILE's own bit

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
LOAD, JEQ, JGE, JSET, RET = 0x20, 0x15, 0x35, 0x45, 0x06

# Calls without side effects beyond the process, its open descriptors and the files that mounts and Landlock leave.
ALLOWED = """
read write close fstat stat lstat newfstatat statx poll ppoll select pselect6 lseek mmap mprotect munmap mremap
madvise msync brk membarrier rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
sigaltstack restart_syscall pause pread64 pwrite64 readv writev preadv pwritev access faccessat faccessat2 pipe
pipe2 dup dup2 dup3 flock fsync fdatasync fadvise64 getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir
mkdirat rmdir unlink unlinkat readlink readlinkat umask statfs fstatfs sendfile nanosleep clock_nanosleep
clock_gettime clock_getres gettimeofday time times getitimer setitimer alarm getpid getppid gettid getuid geteuid
getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid getrusage getrlimit setrlimit prlimit64 sysinfo
uname getpriority futex set_robust_list get_robust_list rseq sched_yield sched_getaffinity sched_getparam
sched_getscheduler sched_get_priority_max sched_get_priority_min getcpu exit exit_group wait4 waitid kill tgkill
set_tid_address arch_prctl prctl getrandom recvfrom recvmsg shutdown getsockname getpeername getsockopt eventfd2
epoll_create1 epoll_ctl epoll_wait epoll_pwait pidfd_open close_range seccomp landlock_restrict_self
"""
# Where namespaces give a program its own scratch directory, it may also do these to it.
ON_SCRATCH = "truncate ftruncate fallocate chmod fchmod fchmodat utimensat"
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032, 36, 37, 38)  # no F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE, F_SETPIPE_SZ
AF_UNIX = 1


def _load_argument(index: int, high: bool = False) -> Instruction:
    return (LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))


def _when(name: str, block: list[Instruction], machine: str = MACHINE) -> list[Instruction]:
    """Run `block`, which must return, if the call is `name`; otherwise go on with the number still loaded."""
    nr = number(name, machine)
    return [] if nr is None else [(JEQ, 0, len(block), nr), *block]


def _returns(action: int) -> list[Instruction]:
    return [(RET, 0, 0, action)]


def _only(argument: int, values: tuple[int, ...], otherwise: int = ERRNO | EPERM) -> list[Instruction]:
    """Allow if the low 32 bits of the argument are among the values (the kernel reads no more of these arguments)."""
    count = len(values)
    tests: list[Instruction] = [(JEQ, count - i, 0, value & 0xFFFFFFFF) for i, value in enumerate(values)]
    return [_load_argument(argument), *tests, (RET, 0, 0, otherwise), (RET, 0, 0, ALLOW)]


def _without_bits(argument: int, bits: int) -> list[Instruction]:
    """Allow if none of the bits is set."""
    return [_load_argument(argument), (JSET, 0, 1, bits), (RET, 0, 0, ERRNO | EPERM), (RET, 0, 0, ALLOW)]


def base_filter(scratch: bool, write_opens: bool, machine: str = MACHINE) -> list[Instruction]:
    """The worker's allowlist, inherited by its programs.

    Args:
        scratch: programs own a directory that nothing else sees (namespaces are in force).
        write_opens: files may be opened for writing (left to mounts or to Landlock from ABI 3 on).
        machine: whose numbers.
    """
    when = partial(_when, machine=machine)
    native = AUDIT_ARCHS[machine]
    program: list[Instruction] = [(LOAD, 0, 0, 4), (JEQ, 1, 0, native), (RET, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if machine == X86_64:
        program += [(JGE, 0, 1, X32_BIT), (RET, 0, 0, KILL)]
    for name in (ALLOWED + (ON_SCRATCH if scratch else "")).split():
        program += when(name, _returns(ALLOW))
    if write_opens and not scratch:
        program += when("ftruncate", _returns(ALLOW)) + when("truncate", _returns(ALLOW))
    program += when("openat", _returns(ALLOW) if write_opens else _without_bits(2, O_WRITING))
    program += when("clone", _without_bits(0, CLONE_NEW))
    # glibc falls back to clone, whose flags can be inspected, only on ENOSYS
    program += when("clone3", _returns(ERRNO | ENOSYS))
    program += when("ioctl", _only(1, IOCTLS))
    program += when("fcntl", _only(1, FCNTLS))
    program += when("socketpair", _only(0, (AF_UNIX,)))
    # send() is sendto() without an address; with one, a datagram socketpair reaches any Unix socket
    no_address: list[Instruction] = [
        _load_argument(4), (JEQ, 0, 3, 0), _load_argument(4, high=True), (JEQ, 0, 1, 0),
        (RET, 0, 0, ALLOW), (RET, 0, 0, ERRNO | EPERM),
    ]  # fmt: skip
    program += when("sendto", no_address)
    return [*program, (RET, 0, 0, ERRNO | EPERM)]


CHILD_DENIED = "recvmsg seccomp landlock_restrict_self pidfd_open wait4 waitid"


def child_filter(pid: int, machine: str = MACHINE) -> list[Instruction]:
    """A program's own filter: threads but no processes, signals and limits for itself alone."""
    when = partial(_when, machine=machine)
    program: list[Instruction] = [(LOAD, 0, 0, 0)]
    program += when(
        "clone",
        [_load_argument(0), (JSET, 1, 0, CLONE_THREAD), (RET, 0, 0, ERRNO | EPERM), (RET, 0, 0, ALLOW)],
    )
    program += when("kill", _only(0, (pid,))) + when("tgkill", _only(0, (pid,)))
    program += when("prlimit64", _only(0, (0, pid)))
    program += when("prctl", _only(0, (PR_SET_NAME, PR_GET_NAME)))
    for name in CHILD_DENIED.split():
        program += when(name, _returns(ERRNO | EPERM))
    return [*program, (RET, 0, 0, ALLOW)]


def deny_filter(names: list[str], errno: int = EPERM) -> list[Instruction]:
    """Refuse the named calls and nothing else: how tests stand in for a kernel or container that lacks them."""
    program: list[Instruction] = [(LOAD, 0, 0, 0)]
    for name in names:
        program += _when(name, _returns(ERRNO | errno))
    return [*program, (RET, 0, 0, ALLOW)]


def assemble(program: list[Instruction]) -> bytes:
    """The filter as the kernel reads it: an array of `struct sock_filter`."""
    assert len(program) <= 4096, "the kernel takes at most 4096 instructions"
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def install(code: bytes) -> None:
    """Put the calling thread under a filter for good; needs `no_new_privs`. Raises OSError."""
    buffer = ctypes.create_string_buffer(code, len(code))
    Installer(buffer).install()


class Installer:
    """A filter ready to be installed: its arguments are made once, as making them costs more than the call."""

    def __init__(self, code: ctypes.Array[ctypes.c_char]) -> None:
        set_mode_filter = 1
        self._code = code  # the header holds its address
        self._header = struct.pack("@HxxxxxxQ", len(code) // 8, ctypes.addressof(code))
        self._call = prepare("seccomp", set_mode_filter, 0, self._header)

    def install(self) -> None:
        """Install it for the calling thread. Raises OSError."""
        self._call()


class ChildFilter:
    """The per-program filter with the pid left open."""

    def __init__(self) -> None:
        marker = struct.pack("=I", 0x5A5A5A5A)
        code = assemble(child_filter(0x5A5A5A5A))
        self._code = ctypes.create_string_buffer(code, len(code))
        self._places = [i for i in range(0, len(code), 4) if code[i : i + 4] == marker]
        self._installer = Installer(self._code)

    def install(self, pid: int) -> None:
        """Install it for the process `pid`, the caller itself. Raises OSError."""
        for place in self._places:
            struct.pack_into("=I", self._code, place, pid)
        self._installer.install()
