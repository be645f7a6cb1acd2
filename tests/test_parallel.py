"""Independent parts: the same results on any number of processes, and what happens when one fails."""

import signal
from functools import partial
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zwicky.errors import UserError
from zwicky.parallel import map_parts, part_of


@pytest.mark.parametrize("workers", [1, 2])
def test_results_of_all_parts(workers):
    assert sorted(map_parts(abs, range(-5, 0), workers=workers)) == [1, 2, 3, 4, 5]
    assert list(map_parts(abs, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_user_error_arrives(workers):
    with pytest.raises(UserError, match="3/20"):
        list(map_parts(partial(part_of, [1]), ["1/1", "4/3"], workers=workers))


def test_a_killed_worker_is_reported():
    with pytest.raises(UserError, match="killed"):
        list(map_parts(signal.raise_signal, [signal.SIGKILL] * 2, workers=2))


@given(parts=st.lists(st.integers(), max_size=30), n=st.integers(1, 9))
def test_shares_of_a_job_array_hold_each_part_once(parts, n):
    shares = [part_of(parts, f"{k}/{n}") for k in range(1, n + 1)]
    assert sorted(chain(*shares)) == sorted(parts)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert part_of(parts, "") == parts


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_wrong_shares(text):
    with pytest.raises(UserError, match="3/20"):
        part_of([1, 2, 3], text)


def test_no_cluster_is_one_line():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="ray start"):
        list(map_parts(abs, [1], ray="127.0.0.1:1"))


@pytest.mark.slow
def test_ray_gives_the_results_of_one_process():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        assert sorted(map_parts(partial(pow, 2), range(8), ray=cluster.address)) == [2**n for n in range(8)]
        with pytest.raises(UserError, match="3/20"):
            list(map_parts(partial(part_of, [1]), ["4/3"], ray=cluster.address))
    finally:
        cluster.shutdown()
