"""torchrun as the launcher starts it: without tracebacks of its own, as every process leaves its own word behind."""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> None:
    """Run the processes that the command line asks torchrun for. Exits with 1 when one of them failed."""
    logging.disable(logging.CRITICAL)  # its loggers each set a level of their own
    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError:
        sys.exit(1)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)


if __name__ == "__main__":
    main()
