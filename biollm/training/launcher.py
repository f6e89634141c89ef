"""torchrun, with a note of how a worker died: python -m biollm.training.launcher DIED, then torchrun's own arguments.

torchrun itself ends with 1 however its workers ended, and tells the rest to a terminal. It ends, and its workers with it, when its
standard input does: whoever started it, on this host or through ssh, holds that open, so it ends with the starter however that dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

STARTED_BY = "BIOLLM_LAUNCHER"  # tells workers the process that they are to end with
_GRACE_SECONDS = 10
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Run torchrun; where a worker fails, add the exit code of the first that did to the file DIED, minus the signal if it was killed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    threading.Thread(target=_end_with_input, daemon=True).start()
    os.environ[STARTED_BY] = str(os.getpid())
    died = Path(sys.argv.pop(1))
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        with died.open("a") as codes:  # the launchers of all hosts write here
            codes.write(f"{first.exitcode}\n")
        raise


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process with its parent, however that dies; end it now where that is dead already. The former on Linux
    only; elsewhere a launcher that was killed outright later, and had no time to end its workers, leaves them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # torchrun ends its workers
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)  # it was waiting for other hosts; the kernel ends the workers


if __name__ == "__main__":
    main()
