"""How much memory is free, from what Linux says of itself in files."""

from __future__ import annotations

import pytest

from zwicky.data.memory import free_bytes

MB = 2**20


@pytest.fixture
def system(tmp_path):
    """system({path: text}) → a root folder with these files beside a machine with 8000 MB free."""

    def make(files):
        for path, text in {"proc/meminfo": "MemTotal: 16384000 kB\nMemAvailable:    8192000 kB\n", **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return make


def group(limit, used, inactive=0, version=2):
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    return {names[0]: f"{limit}\n", names[1]: f"{used}\n", "memory.stat": f"anon 5\ninactive_file {inactive}\n"}


def at(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8000 * MB),
        ({"proc/self/cgroup": "0::/\n"}, 8000 * MB),
        # Of its own group, pages of files counted as free; a group without a limit says "max".
        (
            {"proc/self/cgroup": "0::/job/step\n"}
            | at("sys/fs/cgroup/job/step", group(900 * MB, 500 * MB, 100 * MB))
            | at("sys/fs/cgroup/job", group("max", 700 * MB)),
            500 * MB,
        ),
        # The group above allows less.
        (
            {"proc/self/cgroup": "0::/job/step\n"}
            | at("sys/fs/cgroup/job/step", group("max", 500 * MB))
            | at("sys/fs/cgroup/job", group(900 * MB, 700 * MB)),
            200 * MB,
        ),
        # Version 1, seen from inside a container, where the path of the group is not there.
        (
            {"proc/self/cgroup": "5:devices:/x\n4:memory:/docker/abc\n"}
            | at("sys/fs/cgroup/memory", group(300 * MB, 100 * MB, 50 * MB, version=1)),
            250 * MB,
        ),
        # Full: nothing is free, and less than nothing is nothing.
        ({"proc/self/cgroup": "0::/a\n"} | at("sys/fs/cgroup/a", group(100 * MB, 110 * MB)), 0),
    ],
)
def test_free_memory(system, files, expected):
    assert free_bytes(system(files)) == expected


def test_a_system_that_says_nothing_has_some(tmp_path):
    assert free_bytes(tmp_path) > 0
    assert free_bytes() > 0
