from __future__ import annotations

import hashlib

import numpy as np

from biollm.core.seeding import derive_seed, generator


def test_a_seed_is_the_same_on_every_machine_and_python() -> None:
    # The definition, spelt out: a change of it would change every result that a recipe names.
    wanted = int.from_bytes(hashlib.sha256(b"7\x1fsplit\x1f3").digest()[:8], "big") >> 1
    assert derive_seed(7, "split", 3) == wanted
    assert 0 <= wanted < 2**63


def test_purposes_and_seeds_have_streams_of_their_own() -> None:
    seeds = {derive_seed(seed, *purpose) for seed in (0, 1) for purpose in (("a",), ("b",), ("a", 1), ("a", 2), ("a", "b"))}
    assert len(seeds) == 10


def test_a_generator_repeats_its_draws() -> None:
    assert np.array_equal(generator(7, "x").random(5), generator(7, "x").random(5))
    assert not np.array_equal(generator(7, "x").random(5), generator(8, "x").random(5))
