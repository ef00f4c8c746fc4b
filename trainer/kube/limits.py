"""What this container may use, from the kernel's own files: CPUs, memory, /dev/shm, GPUs, and out-of-memory kills.

Control groups of version 2, of version 1, and of machines that mount both. A limit counts wherever it is set between
the process's own group and the root that it can see. Nothing here needs torch; torch itself counts the host's cores.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED_BYTES = 1 << 60
"""Version 1 has no word for "no limit", only a number near 2**63."""


@dataclass(frozen=True)
class Limits:
    """What there is for all processes of this container together."""

    cpus: float
    """Cores that may be used: the quota, or the cores this process may run on, whichever is less."""
    has_cpu_quota: bool
    memory_bytes: int | None
    """None: no limit."""
    shm_bytes: int
    """Size of /dev/shm, 0 without one."""
    gpus: int

    @property
    def whole_cpus(self) -> int:
        """Full cores, at least one."""
        return max(1, int(self.cpus))

    def describe(self) -> str:
        """In words, for the log."""
        cpus = f"{self.cpus:g} CPUs ({'the limit' if self.has_cpu_quota else 'no limit'})"
        memory = f"memory {gibibytes(self.memory_bytes)}" if self.memory_bytes else "memory without limit"
        return f"{cpus}, {memory}, /dev/shm {gibibytes(self.shm_bytes)}, {self.gpus or 'no'} GPUs"


def gibibytes(num_bytes: int) -> str:
    """A size as people write it in a pod."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def read_limits(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Limits:
    """The limits of this process; `root` stands in for the file system in tests."""
    cores = float(_num_cores())
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _cpu_quota(folder))]
    sizes = [size for folder in _groups(root, "memory") if (size := _memory_limit(folder))]
    return Limits(
        cpus=min([cores, *quotas]),
        has_cpu_quota=bool(quotas),
        memory_bytes=min(sizes, default=None),
        shm_bytes=_size_of(root / "dev/shm"),
        gpus=_num_gpus(root, environ),
    )


def count_oom_kills(root: Path = Path("/")) -> int:
    """Processes of this container that the kernel killed for memory so far; 0 where it does not say."""
    for folder in _groups(root, "memory")[:1]:
        for name in ("memory.events", "memory.oom_control"):
            found = re.search(r"^oom_kill (\d+)$", _read(folder / name), re.MULTILINE)
            if found:
                return int(found[1])
    return 0


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of the groups this process is in for a controller, its own first, up to the mounted root."""
    own = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    for kind in (controller, ""):
        mount = _mount(root, kind)
        if mount is None or kind not in own:
            continue
        top, mounted = mount
        path = own[kind]
        # A container sees its own group as the root of the mount; the path may still be the host's.
        below = path.removeprefix(mounted) if path.startswith(mounted) else ""
        steps = [] if ".." in below else [part for part in below.split("/") if part]
        folders = [top.joinpath(*steps[:depth]) for depth in range(len(steps), -1, -1)]
        return [folder for folder in folders if folder.is_dir()]
    return []


def _mount(root: Path, controller: str) -> tuple[Path, str] | None:
    """Where the hierarchy of a controller (version 1; empty: version 2) is mounted, and which group is its root."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        fields, (filesystem, _, options) = place.split(), kind.split(" ", 2)
        is_it = filesystem == "cgroup" and controller in options.split(",") if controller else filesystem == "cgroup2"
        if is_it:
            return root / fields[4].lstrip("/"), fields[3]
    return None


def _cpu_quota(folder: Path) -> float | None:
    """Cores, None for no limit."""
    words = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us").strip(),
        _read(folder / "cpu.cfs_period_us").strip(),
    ]
    with suppress(ValueError, ZeroDivisionError, IndexError):
        quota = int(words[0]) / int(words[1])
        return quota if quota > 0 else None
    return None


def _memory_limit(folder: Path) -> int | None:
    text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    with suppress(ValueError):
        size = int(text)
        return size if 0 < size < _UNLIMITED_BYTES else None
    return None


def _num_cores() -> int:
    """Cores this process may run on; cpusets count."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _size_of(folder: Path) -> int:
    with suppress(OSError):
        status = os.statvfs(folder)
        return status.f_frsize * status.f_blocks
    return 0


def _num_gpus(root: Path, environ: Mapping[str, str]) -> int:
    """NVIDIA devices in this container, fewer where CUDA_VISIBLE_DEVICES hides some."""
    there = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in (root / "dev").glob("nvidia*"))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    names = [name.strip() for name in visible.split(",")]
    shown = names.index("-1") if "-1" in names else len(names)  # CUDA stops reading at the first that is none
    return min(there, shown) if visible.strip() else 0


def _read(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    return ""
