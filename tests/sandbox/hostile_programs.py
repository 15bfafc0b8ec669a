"""Programs that try to do harm, harmless themselves: they reach for a canary, a listener and a process of the tests'.

`@CANARY@`, `@DIRECTORY@`, `@PORT@`, `@ABSTRACT@` and `@HOST@` stand for those. Where the harm can be refused, the
program says so itself and passes; where it cannot be undone by the program, the verdict names what stopped it.
"""

from dataclasses import dataclass

REFUSED = frozenset({"passed"})
STOPPED = frozenset({"timeout"})
NO_MEMORY = frozenset({"memory", "error", "killed"})
ENDED = frozenset({"killed", "error", "failed"})


@dataclass(frozen=True)
class Attack:
    """One program, the verdicts that show it contained, and the row of the threat model that it belongs to."""

    name: str
    row: str
    program: str
    verdicts: frozenset[str] = REFUSED


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
    """An attack by a native call that returns -1 if it is refused."""
    statements = (LIBC, f"if {call} == -1: raise OSError(ctypes.get_errno(), 'refused')")
    return refused(name, row, *statements, imports="ctypes, os")


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
    native("system v shared memory", "memory", "libc.syscall(29, 0, 1 << 20, 0o1777)"),
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
    native("clone3", "processes", "libc.syscall(435, ctypes.create_string_buffer(88), 88)"),
    Attack(
        "thread bomb",
        "processes",
        "import threading, time\ndef attack():\n    threading.stack_size(32 << 10)\n"
        "    try:\n        for _ in range(5000):\n"
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
    native("trace the parent", "others", "libc.syscall(101, 16, os.getppid(), 0, 0)"),
    native("read another's memory", "others", "libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0)"),
]
KERNEL = [
    native("io_uring", "kernel", "libc.syscall(425, 8, ctypes.create_string_buffer(120))"),
    native("bpf", "kernel", "libc.syscall(321, 0, ctypes.create_string_buffer(64), 64)"),
    native("perf", "kernel", "libc.syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)"),
    native("userfaultfd", "kernel", "libc.syscall(323, 0)"),
    native("keyctl", "kernel", "libc.syscall(250, 0, 0, 0, 0, 0)"),
    native("mount", "kernel", "libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)"),
    native("unshare", "kernel", "libc.unshare(0x10000000)"),
    native("setns", "kernel", "libc.setns(0, 0)"),
    native("chroot", "kernel", "libc.chroot(b'/')"),
    native("become root", "kernel", "libc.setuid(0) or libc.setgroups(0, None)"),
    native("another filter", "kernel", "libc.syscall(317, 1, 0, ctypes.create_string_buffer(16))"),
    native("dumpable", "kernel", "libc.prctl(4, 1, 0, 0, 0)"),
    native("no more death signal", "kernel", "libc.prctl(1, 0, 0, 0, 0)"),
    Attack(
        "x32 call",
        "kernel",
        "import ctypes\ndef attack(): return ctypes.CDLL(None).syscall(0x40000000 + 39)",
        frozenset({"forbidden"}),
    ),
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
