"""Streams of random numbers by their keys."""

from itertools import product

import torch

from zwicky.rng import numpy_rng, seed_torch, torch_rng


def seeded(*key):
    with torch.random.fork_rng():
        seed_torch(*key)
        return torch.rand(()).item()


def test_each_key_has_a_stream_of_its_own():
    keys = [key for length in (1, 2, 3) for key in product((1, 2, 3), repeat=length)]
    draws = (
        lambda *key: numpy_rng(*key).random(),
        lambda *key: torch.rand((), generator=torch_rng(*key)).item(),
        seeded,
    )
    for draw in draws:
        numbers = [draw(*key) for key in keys]
        assert len(set(numbers)) == len(keys)
        assert [draw(*key, 0) for key in keys] == numbers
