"""One process that a launcher started: python -m biollm.training.worker TASK.json"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from biollm.training.launch import ERROR, die_with_parent


def main() -> None:
    """Train, tell the launching process what a user can mend, and leave without waiting for other threads."""
    die_with_parent()
    task = Path(sys.argv[1])
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
