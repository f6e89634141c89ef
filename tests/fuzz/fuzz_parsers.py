"""Coverage-guided fuzzing of every parser of our own, with atheris (extra `fuzz`).

    python tests/fuzz/fuzz_parsers.py .gff -max_total_time=600

The first argument names the parser (a suffix of targets.TARGETS); the rest is libFuzzer's. It stops at the first error that is not ours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # the instrumented loops run as Python
    import atheris

    sys.path.insert(0, str(Path(__file__).parent))
    with atheris.instrument_imports(include=["biollm"]):
        from targets import TARGETS, feed
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"name a parser: {' '.join(TARGETS)}")
    suffix = sys.argv.pop(1)

    def one(data: bytes) -> None:
        feed(suffix, data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
