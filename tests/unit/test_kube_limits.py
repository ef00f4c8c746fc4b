"""Limits out of made-up kernel files: control groups of both versions, as containers and hosts show them."""

import pytest

from trainer.kube.limits import count_oom_kills, gibibytes, read_limits

MANY_CPUS = 999.0


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(int(MANY_CPUS)), raising=False)


@pytest.fixture
def root(tmp_path):
    """An empty file system with a /dev/shm and no control groups."""
    (tmp_path / "dev/shm").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def put(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def version_2(root, group="/", mounted="/"):
    put(
        root,
        {
            "proc/self/cgroup": f"0::{group}\n",
            "proc/self/mountinfo": f"1 2 0:3 {mounted} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
            "9 2 0:9 / / rw - overlay overlay rw\n",
        },
    )


def version_1(root, group="/", mounted="/"):
    put(
        root,
        {
            "proc/self/cgroup": f"9:memory:{group}\n4:cpu,cpuacct:{group}\n1:name=systemd:/x\n0::/\n",
            "proc/self/mountinfo": f"1 2 0:3 {mounted} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
            f"1 2 0:4 {mounted} /sys/fs/cgroup/memory ro master:7 - cgroup cgroup rw,memory\n"
            "3 2 0:5 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw\n",
        },
    )


def test_no_groups_no_limits(root):
    limits = read_limits(root)
    assert (limits.cpus, limits.has_cpu_quota, limits.memory_bytes, limits.gpus) == (MANY_CPUS, False, None, 0)
    assert count_oom_kills(root) == 0


def test_version_2_in_a_container(root):
    version_2(root)
    put(root, {"sys/fs/cgroup/cpu.max": "250000 100000\n", "sys/fs/cgroup/memory.max": f"{3 << 30}\n"})
    put(root, {"sys/fs/cgroup/memory.events": "low 0\noom 2\noom_kill 3\noom_group_kill 0\n"})
    limits = read_limits(root)
    assert (limits.cpus, limits.whole_cpus, limits.memory_bytes) == (2.5, 2, 3 << 30)
    assert limits.has_cpu_quota
    assert count_oom_kills(root) == 3


def test_version_2_without_limits(root):
    version_2(root)
    put(root, {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"})
    assert (read_limits(root).cpus, read_limits(root).memory_bytes) == (MANY_CPUS, None)


def test_version_2_on_a_host_takes_the_tightest_group_above(root):
    version_2(root, "/kubepods/pod1/c1")
    put(root, {"sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000"})
    put(root, {"sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000"})
    put(root, {"sys/fs/cgroup/kubepods/cpu.max": "800000 100000"})
    assert read_limits(root).cpus == 1.5


def test_version_1_in_a_container_whose_path_is_the_host_s(root):
    version_1(root, "/kubepods/pod1/c1", mounted="/kubepods/pod1/c1")
    put(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n"})
    put(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"})
    put(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 << 20}\n"})
    put(root, {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"})
    limits = read_limits(root)
    assert (limits.cpus, limits.whole_cpus, limits.memory_bytes) == (0.5, 1, 512 << 20)
    assert count_oom_kills(root) == 1


def test_a_group_below_the_one_that_is_mounted_is_found(root):
    version_1(root, "/kubepods/pod1/c1/inner", mounted="/kubepods/pod1/c1")
    put(root, {"sys/fs/cgroup/memory/inner/memory.limit_in_bytes": f"{256 << 20}\n"})
    put(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 << 20}\n"})
    assert read_limits(root).memory_bytes == 256 << 20


def test_version_1_without_limits(root):
    version_1(root)
    put(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"})
    put(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"})
    put(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    limits = read_limits(root)
    assert (limits.cpus, limits.has_cpu_quota, limits.memory_bytes) == (MANY_CPUS, False, None)


def test_version_1_on_a_host_finds_its_own_group(root):
    version_1(root, "/jobs/mine")
    put(root, {"sys/fs/cgroup/memory/jobs/mine/memory.limit_in_bytes": f"{1 << 30}\n"})
    put(root, {"sys/fs/cgroup/memory/jobs/mine/memory.oom_control": "oom_kill 7\n"})
    put(root, {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill 0\n"})
    assert read_limits(root).memory_bytes == 1 << 30
    assert count_oom_kills(root) == 7


def test_a_path_that_leaves_the_namespace_is_not_followed(root):
    version_2(root, "/../../else")
    put(root, {"sys/fs/cgroup/cpu.max": "100000 100000", "sys/else/cpu.max": "50000 100000"})
    assert read_limits(root).cpus == 1.0


def test_cores_that_may_be_used_count_below_the_quota(root, monkeypatch):
    version_2(root)
    put(root, {"sys/fs/cgroup/cpu.max": "800000 100000"})
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {3, 5}, raising=False)
    assert read_limits(root).cpus == 2.0


def test_a_damaged_file_is_no_limit(root):
    version_2(root)
    put(root, {"sys/fs/cgroup/cpu.max": "what\n", "sys/fs/cgroup/memory.max": ""})
    assert (read_limits(root).cpus, read_limits(root).memory_bytes) == (MANY_CPUS, None)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 2), ("0", 1), ("", 0), ("-1", 0), ("0,-1,1", 1), ("0,1,2,3", 2), ("GPU-a,GPU-b", 2)],
)
def test_gpus_are_counted_by_their_devices(root, visible, expected):
    put(root, {f"dev/{name}": "" for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset")})
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert read_limits(root, environ).gpus == expected


def test_shared_memory_is_the_size_of_its_file_system(root):
    assert read_limits(root).shm_bytes > 0
    (root / "dev/shm").rmdir()
    assert read_limits(root).shm_bytes == 0


def test_limits_in_words(root):
    version_2(root)
    put(root, {"sys/fs/cgroup/cpu.max": "150000 100000", "sys/fs/cgroup/memory.max": f"{3 << 29}"})
    assert read_limits(root).describe().startswith("1.5 CPUs (the limit), memory 1.5 GiB, /dev/shm ")
    assert gibibytes(64 << 20) == "64 MiB"


def test_the_real_machine_answers():
    limits = read_limits()
    assert limits.cpus > 0
    assert limits.whole_cpus >= 1
