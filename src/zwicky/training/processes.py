"""Several processes as one: what the first does for all, and how all of them end when one does."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from zwicky.errors import UserError
from zwicky.training.launch import rank, world

BEAT = 3.0  # seconds between signs of life
SILENCE = 30.0  # seconds without one after which a process counts as gone
PATIENCE = timedelta(minutes=10)  # for one that lives and does not come to where the others wait

T = TypeVar("T")


def run_on_rank_zero(work: Callable[[], T]) -> T:
    """What `work` gives, done by the first process while the others wait for it. Its UserError is raised in all."""
    if world() == 1:
        return work()
    from zwicky.training.engine import meet

    meet()
    outcome: list[tuple[T | None, str]] = [(None, "")]
    if rank() == 0:
        try:
            outcome = [(work(), "")]
        except UserError as error:
            outcome = [(None, str(error))]
    dist.broadcast_object_list(outcome)
    value, mistake = outcome[0]
    if mistake:
        raise UserError(mistake)
    return value  # type: ignore[return-value]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """While it lasts, a process that is no longer heard of ends the others, each with a line that names it."""
    if world() == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_listen, args=(done,), daemon=True).start()
    try:
        yield
        dist.barrier()
    except RuntimeError as error:
        if "peer" in str(error) or isinstance(error, dist.DistError):
            time.sleep(SILENCE + 3 * BEAT)  # a connection broke: the listener will say whose
        raise
    finally:
        done.set()


def _listen(done: threading.Event) -> None:
    """Count own beats in the store the processes met in, and watch the counts of the others."""
    others = [other for other in range(world()) if other != rank()]
    heard = dict.fromkeys(others, (0, time.monotonic()))
    try:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*where, timeout=timedelta(seconds=SILENCE))
        while not done.wait(BEAT):
            store.add(f"zwicky-{rank()}", 1)
            for other in others:
                beats, now = store.add(f"zwicky-{other}", 0), time.monotonic()
                if beats != heard[other][0]:
                    heard[other] = (beats, now)
                elif now - heard[other][1] > SILENCE:
                    _leave(f"process {other} of {world()} has ended or hangs")
    except (RuntimeError, OSError):  # DistNetworkError among them
        if not done.is_set():
            _leave("the process where all of them met has ended (the first one, or torchrun)")


def _leave(reason: str) -> None:
    again = "the same command goes on from the last checkpoint, with any number of processes"
    print(f"zwicky: {reason}, so process {rank()} stops too; {again}", file=sys.stderr, flush=True)
    os._exit(1)
