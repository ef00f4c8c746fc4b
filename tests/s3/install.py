"""Swift in a virtual environment of its own: eventlet and its needs stay out of the tests' process.

It is kept beside the packages of the running interpreter, under the digest of what it holds, so that only the first
session (or the first after a change of requirements.txt) pays for it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
SERVERS = Path(sys.prefix) / "servers"


def installed() -> Path:
    """The interpreter of a complete installation, made now if there is none.

    Raises RuntimeError with the installer's last words.
    """
    folder = SERVERS / f"swift-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:8]}"
    if not folder.exists():
        SERVERS.mkdir(parents=True, exist_ok=True)
        with (SERVERS / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when its holder dies
            if not folder.exists():
                _install(folder)
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    """Under another name first: a folder of the right name is a whole installation."""
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(unfinished))
    pip = [str(unfinished / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run(*pip, "--no-deps", "--require-hashes", "--requirement", str(REQUIREMENTS))
    unfinished.rename(folder)


def _run(*command: str) -> None:
    # A PYTHONPATH of the tests must not reach into the other environment.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"Swift for the tests could not be installed by: {' '.join(command)}\n{last}")
