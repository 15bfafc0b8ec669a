"""Programs that try to do harm, harmless themselves: they reach for a canary, a listener and a process of the tests'.

`@CANARY@`, `@DIRECTORY@`, `@PORT@`, `@ABSTRACT@` and `@HOST@` stand for those. Where the harm can be refused, the
program says so itself and passes; where it cannot be undone by the program, the verdict names what stopped it.
"""

import platform
from dataclasses import dataclass

from sandbox_host import FAST

from trivium.sandbox import Limits

REFUSED = frozenset({"passed"})
STOPPED = frozenset({"timeout"})
NO_MEMORY = frozenset({"memory", "error", "killed"})
ENDED = frozenset({"killed", "error", "failed"})
GREEDY = Limits(wall_seconds=5.0, cpu_seconds=3.0, memory_bytes=256 << 20)
"""For programs that memory, not time, is to stop."""


@dataclass(frozen=True)
class Attack:
    """One program, the verdicts that show it contained, and the row of the threat model that it belongs to."""

    name: str
    row: str
    program: str
    verdicts: frozenset[str] = REFUSED

    @property
    def limits(self) -> Limits:
        """Short, as most attacks are over at once or never."""
        return GREEDY if self.row == "memory" else FAST


def refused(name: str, row: str, *statements: str, imports: str = "os") -> Attack:
    """An attack in one function, which counts as refused if it raises OSError."""
    body = "\n".join(f"        {line}" for statement in statements for line in statement.split("\n"))
    program = (
        f"import {imports}\ndef attack():\n    try:\n{body}\n    except (OSError, ValueError) as error:\n"
        "        return 'refused'\n    return 'done'\n"
    )
    return Attack(name, row, program)


LISTING = """import os
def attack():
    try:
        found = os.listdir(@PLACE@)
    except OSError:
        return 'refused'
    return 'done' if found else 'refused'"""
LIBC = "libc = ctypes.CDLL(None, use_errno=True)"


def native(name: str, row: str, call: str) -> Attack:
    """An attack by a native call, refused before the kernel looks at its arguments: with EPERM or ENOSYS."""
    statements = (
        LIBC,
        f"if {call} == -1 and ctypes.get_errno() in (1, 38): raise OSError(ctypes.get_errno(), 'refused')",
        "return f'errno {ctypes.get_errno()}'",
    )
    return refused(name, row, *statements, imports="ctypes, os")


def system_call(name: str, row: str, x86_64: int, aarch64: int, arguments: str = "0, 0, 0, 0, 0, 0") -> Attack:
    """An attack by number."""
    number = aarch64 if platform.machine() in ("aarch64", "arm64") else x86_64
    return native(name, row, f"libc.syscall({number}, {arguments})")


TIME = [
    Attack("loop", "time", "while True: pass", STOPPED),
    Attack("sleep", "time", "import time\ntime.sleep(60)", STOPPED),
    Attack("c loop", "time", "def attack(): return sum(range(10**12))", STOPPED),
    Attack("regular expression", "time", "import re\ndef attack(): return re.match('(a*)*b', 'a' * 40)", STOPPED),
    Attack(
        "ignored signals",
        "time",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
        "while True: pass",
        STOPPED,
    ),
    Attack("stopped self", "time", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", STOPPED),
    Attack(
        "swallowed interrupts",
        "time",
        "def attack():\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass",
        STOPPED,
    ),
    Attack(
        "endless generator",
        "time",
        "from itertools import count\ndef attack(): return list(count())",
        STOPPED | NO_MEMORY,
    ),
    Attack("waiting for input", "time", "def attack(): return input()", frozenset({"error"})),
    Attack("deadlock", "time", "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()", STOPPED),
]
MEMORY = [
    Attack("heap", "memory", "def attack(): return len([bytearray(1 << 20) for _ in range(2000)])", NO_MEMORY),
    Attack("one block", "memory", "def attack(): return len(bytearray(2 << 30))", NO_MEMORY),
    Attack("large integer", "memory", "def attack(): return (1 << (1 << 34)) & 1", NO_MEMORY | STOPPED),
    Attack(
        "map", "memory", "import mmap\ndef attack(): return len([mmap.mmap(-1, 1 << 28) for _ in range(8)])", NO_MEMORY
    ),
    refused("memfd", "memory", "os.memfd_create('x')"),
    refused("shared memory file", "memory", "open('/dev/shm/x', 'wb').write(b'x')"),
    system_call("system v shared memory", "memory", 29, 194, "0, 1 << 20, 0o1777"),
    system_call("system v messages", "memory", 68, 186, "0, 0o1777"),
    system_call("system v semaphores", "memory", 64, 190, "0, 100, 0o1777"),
    system_call("posix messages", "memory", 240, 180, "b'/x', 0o102, 0o600, 0"),
    system_call("secret memory", "memory", 447, 447),
    Attack(
        "socket buffers",
        "memory",
        "import socket\ndef attack():\n    ends = []\n    try:\n        while True:\n"
        "            ends += socket.socketpair()\n            ends[-1].setblocking(False)\n"
        "            try:\n                while True: ends[-1].send(bytes(1 << 16))\n"
        "            except BlockingIOError: pass\n    except OSError: return 'refused'",
    ),
    refused(
        "larger socket buffers",
        "memory",
        "a, b = socket.socketpair()\na.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 28)",
        imports="socket",
    ),
    Attack(
        "nested data",
        "memory",
        "def attack():\n    x = []\n    while True: x = [x, x, bytes(1 << 16)]",
        NO_MEMORY | STOPPED,
    ),
    Attack("huge answer", "memory", "def attack(): return 'x' * (64 << 20)", NO_MEMORY),
    Attack(
        "pipes",
        "memory",
        "import os\ndef attack():\n    ends = []\n    try:\n        while True: ends += os.pipe()\n"
        "    except OSError: return 'refused'",
    ),
    refused("larger pipe", "memory", "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(w, 1031, 1 << 20)"),
    Attack(
        "stack",
        "memory",
        "import sys\nsys.setrecursionlimit(10**8)\ndef attack(): return attack()",
        ENDED | NO_MEMORY | STOPPED,
    ),
]
PROCESSES = [
    refused("fork", "processes", "if os.fork() == 0: os._exit(0)"),
    refused("vfork and exec", "processes", "import subprocess\nsubprocess.run(['/bin/true'])"),
    refused("posix_spawn", "processes", "os.posix_spawn('/bin/true', ['true'], {})"),
    refused("exec", "processes", "os.execv('/bin/true', ['true'])"),
    Attack("shell", "processes", "import os\ndef attack(): return 'refused' if os.system('true') else 'done'"),
    system_call("clone3", "processes", 435, 435, "ctypes.create_string_buffer(88), 88"),
    system_call("clone", "processes", 56, 220, "17, 0, 0, 0, 0"),
    system_call("execveat", "processes", 322, 281, "-100, b'/bin/true', 0, 0, 0"),
    refused(
        "daemon",
        "processes",
        "os.setsid()\nif os.fork() == 0:\n    while True: open('@DIRECTORY@/made', 'a').write('x')",
    ),
    refused(
        "multiprocessing", "processes", "p = m.get_context('fork').Process()\np.start()", imports="multiprocessing as m"
    ),
    Attack(  # aarch64 has no stacks below 128 KiB; all 500 would fit into the memory, so it is their number that counts
        "thread bomb",
        "processes",
        "import threading, time\ndef attack():\n    threading.stack_size(256 << 10)\n"
        "    try:\n        for _ in range(500):\n"
        "            threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "    except (RuntimeError, MemoryError): return 'refused'\n    time.sleep(30)",
        REFUSED | frozenset({"killed"}),
    ),
]
FILES = [
    refused("read a file", "files", "open('@CANARY@').read()"),
    refused("append to a file", "files", "open('@CANARY@', 'a').write('x')"),
    refused("truncate a file", "files", "os.truncate('@CANARY@', 0)"),
    refused("create a file", "files", "open('@DIRECTORY@/made', 'w').write('x')"),
    refused("make a directory", "files", "os.mkdir('@DIRECTORY@/made')"),
    refused("remove a file", "files", "os.unlink('@CANARY@')"),
    refused("rename a file", "files", "os.rename('@CANARY@', '@CANARY@.moved')"),
    refused("link to a file", "files", "os.symlink('@CANARY@', '@DIRECTORY@/made')"),
    refused("change a file's mode", "files", "os.chmod('@CANARY@', 0)"),
    refused("change a file's owner", "files", "os.chown('@CANARY@', 0, 0)"),
    refused("change a file's times", "files", "os.utime('@CANARY@', (0, 0))"),
    refused("set an attribute", "files", "os.setxattr('@CANARY@', 'user.x', b'x')"),
    refused("list a directory", "files", "os.listdir('@DIRECTORY@')"),
    refused("read passwords", "files", "open('/etc/passwd').read()"),
    refused("write to the library", "files", "open(os.__file__, 'a').write('x')"),
    refused("write beside the library", "files", "open(os.path.dirname(os.__file__) + '/made.py', 'w')"),
    refused("make a device", "files", "os.mknod('null', 0o20666, os.makedev(1, 3))"),
    refused("large file", "files", "open('x', 'wb').write(bytes(8 << 20))"),
    Attack(
        "fill the disk",
        "files",
        "def attack():\n    try:\n        for i in range(1000): open(f'f{i}', 'wb').write(bytes(1 << 20))\n"
        "    except OSError: return 'refused'\n    return 'done'",
    ),
    Attack(
        "many files",
        "files",
        "def attack():\n    try:\n        for i in range(10000): open(f'f{i}', 'wb').close()\n"
        "    except OSError: return 'refused'\n    return 'done'",
    ),
    Attack(
        "files that resist removal",
        "files",
        "import os\ndef attack():\n    try:\n        os.makedirs('a/b/c')\n        open('a/b/c/d', 'w').close()\n"
        "        os.chmod('a/b', 0)\n        os.chmod('a', 0)\n    except OSError: pass\n    return 'refused'",
    ),
]
NETWORK = [
    refused("tcp", "network", "socket.create_connection(('127.0.0.1', @PORT@), 1)", imports="socket"),
    refused("udp", "network", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", imports="socket"),
    refused("listen", "network", "socket.create_server(('127.0.0.1', 0))", imports="socket"),
    refused("abstract socket", "network", "socket.socket(socket.AF_UNIX).connect('\\0@ABSTRACT@')", imports="socket"),
    refused(
        "datagram from a socketpair",
        "network",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "a.sendto(b'x', '\\0@ABSTRACT@')",
        imports="socket",
    ),
    refused(
        "message from a socketpair",
        "network",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "a.sendmsg([b'x'], [], 0, '\\0@ABSTRACT@')",
        imports="socket",
    ),
    refused("netlink", "network", "socket.socket(16, socket.SOCK_RAW, 0)", imports="socket"),
    refused("vsock", "network", "socket.socket(40, socket.SOCK_STREAM)", imports="socket"),
    refused("resolver", "network", "socket.getaddrinfo('localhost', 80)\nsocket.socket()", imports="socket"),
]
OTHERS = [
    refused("signal the parent", "others", "os.kill(os.getppid(), 0)"),
    refused("kill everybody", "others", "os.kill(-1, 0)"),
    refused("kill the group", "others", "os.kill(0, 0)"),
    refused("signal the host", "others", "os.kill(@HOST@, 0)"),
    refused("signal the neighbours", "others", "[os.kill(os.getpid() + i, 0) for i in (-2, -1, 1, 2)]"),
    refused("process descriptor", "others", "os.pidfd_open(os.getppid())"),
    refused("priority of others", "others", "os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)"),
    refused("limits of others", "others", "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU)"),
    refused("own /proc", "others", "open('/proc/self/mem', 'rb')"),
    refused("environment of the parent", "others", "open(f'/proc/{os.getppid()}/environ', 'rb').read()"),
    refused(
        "signals from a file", "others", "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())"
    ),
    system_call("trace the parent", "others", 101, 117, "16, os.getppid(), 0, 0"),
    system_call("be traced", "others", 101, 117, "0, 0, 0, 0"),
    system_call("read another's memory", "others", 310, 270, "os.getppid(), 0, 0, 0, 0, 0"),
    system_call("write to another's memory", "others", 311, 271, "os.getppid(), 0, 0, 0, 0, 0"),
    system_call("take another's descriptor", "others", 438, 438, "0, 0, 0"),
    system_call("advise another's memory", "others", 440, 440),
    system_call("signal by descriptor", "others", 424, 424),
    system_call("queue a signal", "others", 129, 138, "os.getppid(), 0, 0"),
    system_call("processors of others", "others", 203, 122, "os.getppid(), 8, ctypes.create_string_buffer(8)"),
    system_call("scheduling of others", "others", 144, 119, "os.getppid(), 0, ctypes.create_string_buffer(8)"),
    system_call("input priority of others", "others", 251, 30, "1, os.getppid(), 0"),
    refused(
        "signals from a descriptor",
        "others",
        "import fcntl\nr, w = os.pipe()\nfcntl.ioctl(r, 0x5452, b'\\1\\0\\0\\0')",  # FIOASYNC
    ),
    refused("typing for others", "others", "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')"),  # TIOCSTI
    refused(
        "received descriptors", "others", "socket.socket.recvmsg(socket.socketpair()[0], 1, 64, 64)", imports="socket"
    ),
]
INTERRUPT = """
import ctypes, mmap
def attack():
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, getpid of 32-bit Linux; int 0x80; ret
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
"""
KERNEL = [
    system_call("io_uring", "kernel", 425, 425, "8, ctypes.create_string_buffer(120)"),
    system_call("bpf", "kernel", 321, 280, "0, ctypes.create_string_buffer(64), 64"),
    system_call("perf", "kernel", 298, 241, "ctypes.create_string_buffer(128), 0, -1, -1, 0"),
    system_call("userfaultfd", "kernel", 323, 282),
    system_call("keyctl", "kernel", 250, 219),
    system_call("add a key", "kernel", 248, 217),
    system_call("another filter", "kernel", 317, 277, "1, 0, ctypes.create_string_buffer(16)"),
    system_call("file by handle", "kernel", 304, 265, "-100, ctypes.create_string_buffer(64), 0"),
    system_call("watch everything", "kernel", 300, 262),
    system_call("watch files", "kernel", 294, 26),
    system_call("personality", "kernel", 135, 92),
    system_call("reboot", "kernel", 169, 142),
    system_call("load a kernel", "kernel", 246, 104),
    system_call("load a module", "kernel", 175, 105),
    system_call("swap", "kernel", 167, 224),
    system_call("accounting", "kernel", 163, 89),
    system_call("set the clock", "kernel", 227, 112),
    system_call("adjust the clock", "kernel", 159, 171),
    system_call("open a tree", "kernel", 428, 428),
    system_call("open a file system", "kernel", 430, 430),
    system_call("splice", "kernel", 275, 76),
    system_call("map pages into a pipe", "kernel", 278, 75),
    native("mount", "kernel", "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)"),
    native("unshare", "kernel", "libc.unshare(0x10000000)"),
    native("setns", "kernel", "libc.setns(0, 0)"),
    native("chroot", "kernel", "libc.chroot(b'/')"),
    native("become root", "kernel", "libc.setuid(0) or libc.setgroups(0, None)"),
    native("dumpable", "kernel", "libc.prctl(4, 1, 0, 0, 0)"),
    native("no more death signal", "kernel", "libc.prctl(1, 0, 0, 0, 0)"),
]
if platform.machine() == "x86_64":
    KERNEL += [
        system_call("local descriptors", "kernel", 154, 0),
        system_call("ports", "kernel", 172, 0),
        Attack(
            "x32 call",
            "kernel",
            "import ctypes\ndef attack(): return ctypes.CDLL(None).syscall(0x40000000 + 39)",
            frozenset({"forbidden"}),
        ),
        Attack("32-bit call", "kernel", INTERRUPT, frozenset({"forbidden", "killed"})),  # killed: not in this kernel
    ]
CRASHES = [
    Attack("exit", "crashes", "import sys\nsys.exit(0)", ENDED),
    Attack("exit at once", "crashes", "import os\nos._exit(0)", ENDED),
    Attack("exit in a test", "crashes", "import os\ndef attack(): os._exit(0)", ENDED),
    Attack(
        "exit of a thread",
        "crashes",
        "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()",
        ENDED,
    ),
    Attack("segmentation fault", "crashes", "import ctypes\ndef attack(): ctypes.string_at(0)", ENDED),
    Attack("abort", "crashes", "import os\ndef attack(): os.abort()", ENDED),
    Attack("kill itself", "crashes", "import os\ndef attack(): os.kill(os.getpid(), 9)", ENDED),
    Attack("syntax error", "crashes", "def attack(:", frozenset({"error"})),
    Attack("null byte", "crashes", "def attack(): return '\\x00'\n\x00", frozenset({"error"})),
    Attack("surrogate", "crashes", "x = '\udc80'", frozenset({"error"})),
    Attack("deep nesting", "crashes", "(" * 5000 + ")" * 5000, frozenset({"error", "memory", "killed"})),
    Attack("illegal instruction", "crashes", "import os\ndef attack(): os.kill(os.getpid(), 4)", ENDED),
    Attack(
        "link closed and asleep",
        "crashes",
        "import os, time\ndef attack():\n    os.close(3)\n    time.sleep(60)",
        ENDED | STOPPED,
    ),
    Attack("link replaced", "crashes", "import os\ndef attack(): os.dup2(1, 3)", ENDED | STOPPED),
    Attack(
        "link flooded",
        "crashes",
        "import os\ndef attack():\n    while True: os.write(3, bytes(1 << 16))",
        ENDED | STOPPED,
    ),
    Attack(
        "link read by a thread",
        "crashes",
        "import os, threading\ndef steal():\n    while True: os.read(3, 1)\n"
        "threading.Thread(target=steal, daemon=True).start()\ndef attack(): return 'refused'",
        ENDED | STOPPED | REFUSED,
    ),
    Attack("out of descriptors", "crashes", "import os\nwhile True: os.dup(0)", frozenset({"error"})),
    Attack("closed descriptors", "crashes", "import os\nos.closerange(0, 64)", ENDED),
    Attack(
        "kills its streams", "crashes", "import sys\nsys.stdout = sys.stderr = None\ndef attack(): return 'refused'"
    ),
]
OUTPUT = [
    Attack("much output", "output", "def attack():\n    print('x' * (8 << 20))\n    return 'refused'"),
    Attack(
        "binary output",
        "output",
        "import os\ndef attack():\n    os.write(1, bytes(range(256)) * 999)\n    return 'refused'",
    ),
    Attack("endless output", "output", "import os\nwhile True: os.write(1, b'x' * 65536)", STOPPED | ENDED),
    Attack(
        "errors instead",
        "output",
        "import sys\ndef attack():\n    sys.stderr.write('y' * (1 << 20))\n    return 'refused'",
    ),
]
SECRETS = [
    Attack(
        "memory of earlier programs",
        "secrets",
        "import builtins, sys\ndef attack():\n    found = hasattr(builtins, 'left') or 'left' in sys.modules\n"
        "    builtins.left = sys.modules['left'] = sys\n    return 'done' if found else 'refused'",
    ),
    Attack(
        "names of the host",
        "secrets",
        "import sys\ndef attack():\n    known = repr([sys.argv, sys.path, sys.orig_argv])\n"
        "    return 'done' if 'trivium' in known else 'refused'",
    ),
    Attack("own command line", "secrets", LISTING.replace("@PLACE@", "'/proc/self'")),
    Attack("devices", "secrets", LISTING.replace("@PLACE@", "'/dev/pts'")),
    Attack("kernel's settings", "secrets", LISTING.replace("@PLACE@", "'/sys'")),
    Attack("environment", "secrets", "import os\ndef attack(): return 'done' if os.environ else 'refused'"),
    Attack(
        "descriptors",
        "secrets",
        "import os\ndef attack():\n    def usable(fd):\n        try: os.fstat(fd)\n"
        "        except OSError: return False\n"
        "        return True\n    found = [fd for fd in range(4096) if usable(fd)]\n"
        "    return 'refused' if found == [0, 1, 2, 3] else str(found)",
    ),
    Attack("home", "secrets", LISTING.replace("@PLACE@", "os.path.expanduser('~root')")),
    Attack("working directory", "secrets", LISTING.replace("@PLACE@", "'.'")),
]
CORPUS = TIME + MEMORY + PROCESSES + FILES + NETWORK + OTHERS + KERNEL + CRASHES + OUTPUT + SECRETS
