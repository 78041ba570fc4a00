"""CPUs by cpuset and by the quota of control groups, version 1 and 2."""

from pathlib import Path

import pytest

from steelyard.kernel.cpus import cpus_allowed


def machine(root: Path, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("900000 100000\n", 8),
        ("nonsense\n", 8),
        ("0 0\n", 8),
    ],
)
def test_version_2(tmp_path: Path, quota: str, expected: int) -> None:
    root = machine(tmp_path, "0::/app\n", **{"app/cpu.max": quota})
    assert cpus_allowed(root, 8) == expected


def test_the_tightest_group_above_counts_too(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/pod/app\n", **{"pod/app/cpu.max": "max 100000\n", "pod/cpu.max": "300000 100000\n"})
    assert cpus_allowed(root, 8) == 3


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/../../not/mounted/here\n", **{"cpu.max": "100000 100000\n"})
    assert cpus_allowed(root, 8) == 1


@pytest.mark.parametrize(("quota", "expected"), [("-1\n", 8), ("250000\n", 3), ("20000\n", 1)])
def test_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    groups = "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n"
    files = {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": quota, "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n"}
    assert cpus_allowed(machine(tmp_path, groups, **files), 8) == expected


def test_version_1_mounted_as_cpu(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpus_allowed(machine(tmp_path, "4:cpu,cpuacct:/docker/x\n", **files), 8) == 1


def test_the_cpuset_counts_where_nothing_is_bounded(tmp_path: Path) -> None:
    assert cpus_allowed(tmp_path, 3) == 3
    assert cpus_allowed(tmp_path, 1) == 1
    assert cpus_allowed(tmp_path) >= 1
