from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from biollm.core.alphabets import canonical, reverse_complement

dna = st.text("ACGTN", max_size=40)


@given(dna)
def test_the_other_strand_of_the_other_strand_is_the_sequence(sequence: str) -> None:
    other = reverse_complement(sequence)
    assert reverse_complement(other) == sequence
    assert all({a, b} in ({"A", "T"}, {"C", "G"}, {"N"}) for a, b in zip(sequence, reversed(other), strict=True))


@given(dna)
def test_both_strands_have_one_canonical_form(sequence: str) -> None:
    assert canonical(sequence) == canonical(reverse_complement(sequence)) in (sequence, reverse_complement(sequence))
