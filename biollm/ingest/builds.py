"""The builds (assemblies) of genomes by name: whether two names can mean one."""

from __future__ import annotations

import re

# Names that the field uses for one build, in lower case.
_SAME = {
    "hg38": "grch38", "hg19": "grch37", "hg18": "ncbi36", "mm10": "grcm38", "mm39": "grcm39", "hs1": "t2t-chm13v2.0",
    "chm13v2.0": "t2t-chm13v2.0", "hs37d5": "grch37",
}  # fmt: skip
_KNOWN = {*_SAME, *_SAME.values(), "tair10"}


def build_key(build: str) -> str:
    """One text for all names of a build; patches (.p14) move no position of a chromosome.

    >>> build_key("hg38") == build_key("GRCh38.p14"), build_key("hg19") == build_key("GRCh38")
    (True, False)
    """
    name = re.sub(r"\.p[0-9]+$", "", build.strip().lower())
    return _SAME.get(name, name)


def differs_surely(found: str, declared: str) -> bool:
    """Whether a name that a file holds, which may be any text, is the name of another build than the declared one."""
    known = {build_key(name) for name in _KNOWN}
    return build_key(found) in known and build_key(declared) in known and build_key(found) != build_key(declared)
