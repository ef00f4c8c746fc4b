"""Where the tests find a real Prometheus, promtool and Pushgateway.

In this order: the files that PROMETHEUS_BIN, PROMTOOL and PUSHGATEWAY_BIN name, those on PATH, and on Debian the
distribution's packages, unpacked (not installed: no root, no services) beside the packages of the running
interpreter, as tests/s3 keeps its server. Only the first session pays for that, about a second.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLES = {
    "prometheus": "PROMETHEUS_BIN",
    "promtool": "PROMTOOL",
    "prometheus-pushgateway": "PUSHGATEWAY_BIN",
}
OTHER_NAMES = {"prometheus-pushgateway": "pushgateway"}
"""As the projects themselves call what Debian calls otherwise."""
SERVERS = Path(sys.prefix) / "servers"


class Missing(Exception):
    """The program cannot be had here; the text says why."""


def program(name: str) -> Path:
    """The program that Debian calls `name`. Raises Missing."""
    if given := os.environ.get(VARIABLES[name]):
        return Path(given)
    found = shutil.which(name) or shutil.which(OTHER_NAMES.get(name, name))
    return Path(found) if found else _unpacked() / "usr" / "bin" / name


def _unpacked() -> Path:
    """The folder of the unpacked packages, made now if there is none."""
    folder = SERVERS / "prometheus"
    if not folder.exists():
        SERVERS.mkdir(parents=True, exist_ok=True)
        with (SERVERS / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when its holder dies
            if not folder.exists():
                _unpack(folder)
    return folder


def _unpack(folder: Path) -> None:
    """Under another name first: a folder of the right name is whole."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Missing(f"not on PATH, and this is no Debian; {', '.join(VARIABLES.values())} say where they are")
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    _fetch(unfinished, "prometheus", "prometheus-pushgateway")
    if not (unfinished / "usr" / "bin" / "promtool").exists():
        _fetch(unfinished, "promtool")  # a package of its own from Debian 13 on
    unfinished.rename(folder)


def _fetch(folder: Path, *packages: str) -> None:
    _run(folder, "apt-get", "download", *packages)
    for package in folder.glob("*.deb"):
        _run(folder, "dpkg-deb", "--extract", package.name, ".")
        package.unlink()


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join((done.stdout + done.stderr).split("\n")[-3:]).strip()
        raise Missing(f"not on PATH, and `{' '.join(command)}` failed ({last}); `apt-get update` may help")
