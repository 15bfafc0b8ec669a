"""What to do about a layer that is missing, from what this machine says about itself."""

import os
import sys
from pathlib import Path

_SWITCHES = {  # below /proc/sys: the value that forbids user namespaces, and how to allow them
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
}
_CONTAINER = "Start the container with --security-opt seccomp=unconfined --cap-add SYS_ADMIN"
_REMEDIES = {
    "Landlock": "Use Linux 5.13 or later with landlock among the lsm= boot parameters, and Docker 20.10.10 or later",
    "seccomp": "Use Linux on x86-64 or aarch64 with CONFIG_SECCOMP_FILTER",
}


def remedy(about: str) -> str:
    """How to get the layer, empty if there is nothing to advise."""
    if not sys.platform.startswith("linux"):
        return "Use Linux, for example in a virtual machine on this computer"
    # AppArmor on Ubuntu 24.04 grants the namespaces but nothing to do in them
    return _namespaces() if about in ("namespaces", "a root of its own") else _REMEDIES.get(about, "")


def _namespaces(proc: Path = Path("/proc/sys")) -> str:
    advice = [command for name, (value, command) in _SWITCHES.items() if _read(proc / name) == value]
    if advice:
        return f"Allow user namespaces, as root: {' && '.join(advice)}"
    inside = os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv") or os.geteuid() == 0
    return _CONTAINER if inside else "Allow unprivileged user namespaces, or in a container add SYS_ADMIN"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
