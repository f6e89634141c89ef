"""One process that a launcher started: python -m biollm.training.worker TASK.json"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from biollm.training.launcher import STARTED_BY, die_with_parent


def main() -> None:
    """Train, tell the launching process what a user can mend, and leave without waiting for other threads."""
    die_with_parent(int(os.environ[STARTED_BY]))  # before the imports below, which take seconds
    from biollm.core.errors import BiollmError, storage_error
    from biollm.core.files import read_json
    from biollm.core.machine import collect_rarely, interface_towards
    from biollm.training.launch import ERROR, ERROR_BYTES, LOOPBACK

    collect_rarely()
    task = Path(sys.argv[1])
    first_host = os.environ["MASTER_ADDR"]
    if first_host != LOOPBACK and (interface := interface_towards(first_host)):
        # by itself gloo takes what this machine's own name means here, often loopback, and the others wait for it in vain
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    from biollm.training.trainer import fit

    try:
        fit(read_json(task))
    except Exception as error:
        told = error if isinstance(error, BiollmError) else storage_error(error, task.parent)
        if told is None:
            raise
        with task.with_name(ERROR).open("r+b") as place:
            place.write(str(told).encode().ljust(ERROR_BYTES))
        sys.stderr.flush()
        os._exit(1)
    import torch.distributed

    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the communication library have been seen to abort a process that had done everything (6 of 300 runs).
    os._exit(0)


if __name__ == "__main__":
    main()
