"""System calls by number through `ctypes`: no compiler, no dependency.

Numbers: x86-64 from arch/x86/entry/syscalls/syscall_64.tbl, aarch64 from include/uapi/asm-generic/unistd.h.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable

X86_64, AARCH64 = "x86_64", "aarch64"
MACHINE = {"amd64": X86_64, "arm64": AARCH64}.get(platform.machine().lower(), platform.machine().lower())
SUPPORTED = sys.platform.startswith("linux") and MACHINE in (X86_64, AARCH64) and sys.maxsize > 2**32

# name: (x86-64, aarch64); None where the architecture has no such call
TABLE: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "msync": (26, 227),
    "brk": (12, 214),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "pause": (34, None),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "flock": (73, 32),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "openat": (257, 56),
    "open": (2, None),
    "creat": (85, None),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "umask": (95, 166),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "sendfile": (40, 71),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "utimensat": (280, 88),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getpriority": (140, 141),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getcpu": (309, 168),
    "clone": (56, 220),
    "clone3": (435, 435),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "set_tid_address": (218, 96),
    "arch_prctl": (158, None),
    "prctl": (157, 167),
    "getrandom": (318, 278),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "eventfd2": (290, 19),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "pidfd_open": (434, 434),
    "close_range": (436, 436),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "mount_setattr": (442, 442),
    "sethostname": (170, 161),
    "capset": (126, 91),
    "unshare": (272, 97),
    "socket": (41, 198),
    "connect": (42, 203),
    "ptrace": (101, 117),
    "execve": (59, 221),
    "sendmsg": (46, 211),
    "setsockopt": (54, 208),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def number(name: str, machine: str = MACHINE) -> int | None:
    """The machine's number of the call, None where it does not exist."""
    return TABLE[name][0 if machine == X86_64 else 1]


Argument = int | bytes | None | ctypes.Array[ctypes.c_char]


def prepare(name: str, *arguments: Argument) -> Callable[[], int]:
    """The call with its arguments converted beforehand; bytes and buffers go as pointers, integers as 64-bit words.

    Calling it raises OSError if the call fails. Raises OSError if the call is unknown here.
    """
    nr = number(name)
    if nr is None or not SUPPORTED:
        raise OSError(38, f"no system call {name} on {sys.platform} {MACHINE}")
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in (nr, *arguments)]

    def call() -> int:
        result = _libc.syscall(*words)
        if result < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"{name}: {os.strerror(errno)}")
        return result

    return call


def syscall(name: str, *arguments: Argument) -> int:
    """Make the call. Raises OSError if it fails or is unknown here."""
    return prepare(name, *arguments)()


def fork() -> int:
    """`fork` without the interpreter's hooks, for a process with a single thread.

    The hooks rebuild locks that only other threads could hold and seed `random` anew. They write to some 170 pages of
    the child, which is more than half of what an `os.fork` of a warm interpreter costs. Raises OSError.
    """
    if not SUPPORTED:
        return os.fork()
    pid = _fork()
    if pid < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"fork: {os.strerror(errno)}")
    return pid


_fork = ctypes.PyDLL(None, use_errno=True).fork  # PyDLL: the calling thread keeps the interpreter's lock on both sides
_fork.argtypes = ()
_fork.restype = ctypes.c_int

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_GET_NAME = 16
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


def prctl(option: int, argument: int = 0) -> None:
    """`prctl` with one argument. Raises OSError."""
    syscall("prctl", option, argument, 0, 0, 0)
