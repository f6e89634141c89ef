"""One process that a launcher started: python -m biollm.training.worker TASK.json"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from biollm.core.machine import interface_towards
from biollm.training.launch import ERROR, LOOPBACK, die_with_parent


def main() -> None:
    """Train, tell the launching process what a user can mend, and leave without waiting for other threads."""
    die_with_parent()
    task = Path(sys.argv[1])
    first_host = os.environ["MASTER_ADDR"]
    if first_host != LOOPBACK and (interface := interface_towards(first_host)):
        # by itself gloo takes what this machine's own name means here, often loopback, and the others wait for it in vain
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    from biollm.core.errors import BiollmError
    from biollm.core.files import read_json
    from biollm.training.trainer import fit

    try:
        fit(read_json(task))
    except BiollmError as error:
        task.with_name(ERROR).write_text(str(error))
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
