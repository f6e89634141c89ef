"""torchrun, with a note of how a worker died: python -m biollm.training.launcher DIED, then torchrun's own arguments.

torchrun itself ends with 1 however its workers ended, and tells the rest to a terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Run torchrun; where a worker fails, add the exit code of the first that did to the file DIED, minus the signal if it was killed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    died = Path(sys.argv.pop(1))
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        with died.open("a") as codes:  # the launchers of all hosts write here
            codes.write(f"{first.exitcode}\n")
        raise


if __name__ == "__main__":
    main()
