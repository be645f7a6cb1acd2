"""Independent parts on local processes, on a Ray cluster, or as the tasks of a job array.

A part is a small picklable description; what is done for it must be idempotent and written atomically, so that a part
that was lost with its process or its machine is done again.
"""

import logging
import multiprocessing
import os
import re
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from zwicky.errors import UserError, format_warning

IN_FLIGHT = 4  # parts given to a Ray cluster for each of its cores at a time

P = TypeVar("P")
R = TypeVar("R")


def map_parts(
    function: Callable[[P], R], parts: Sequence[P], *, workers: int = 1, ray: str = "", gpus: float = 0
) -> Iterator[R]:
    """Yield `function(part)` of all parts, in the order in which they finish.

    Args:
        function: of one part; a function of a module, or a `functools.partial` of one, as other processes import it.
        parts: the parts.
        workers: local processes; 1 runs in this one, 0 takes one a core.
        ray: "auto", or the address of a Ray cluster that runs the parts instead. A part whose machine is lost is done
            again on another one.
        gpus: GPUs that Ray reserves for each part.

    Raises:
        UserError: One that `function` raised; a process was killed; Ray is not installed or not reached.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(len(parts), 1))
    if ray:
        yield from _map_on_ray(function, parts, ray, gpus)
    elif workers == 1:
        yield from map(function, parts)
    else:
        context = multiprocessing.get_context("spawn")  # forked processes would inherit threads of torch
        with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(workers,)) as pool:
            futures = [pool.submit(function, part) for part in parts]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process was killed, perhaps for memory; repeat the command with fewer --workers to resume"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def part_of(parts: Sequence[P], text: str) -> list[P]:
    """Return the parts of task k of n, as `k/n` with 1 ≤ k ≤ n says; "" means all."""
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"part is {text!r}; write k/n with k from 1 to n, e.g. 3/20")
    return list(parts[int(match[1]) - 1 :: int(match[2])])


def _start(workers: int) -> None:
    """Take a share of the cores, warn in one line, and end with the parent instead of waiting for ever."""
    import torch

    warnings.formatwarning = format_warning
    torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // workers)))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _map_on_ray(function: Callable[[P], R], parts: Sequence[P], address: str, gpus: float) -> Iterator[R]:
    try:
        import ray
        from ray.exceptions import RayTaskError
    except ImportError as error:
        raise UserError("--ray needs Ray; install it by pip install 'zwicky[ray]'") from error
    try:
        if re.fullmatch(r"[^/]+:\d+", address):  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"there is no Ray cluster at {address!r}; start one with `ray start --head`") from error
    try:
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)
        task: Any = remote(lambda function, part: function(part))  # a `functools.partial` cannot be a task
        shared = ray.put(function)
        waiting = list(parts)[::-1]
        running: list = []
        while waiting or running:
            most = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < most:
                running.append(task.remote(shared, waiting.pop()))
            (done,), running = ray.wait(running)
            try:
                yield ray.get(done)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
    finally:
        ray.shutdown()
