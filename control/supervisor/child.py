"""The first thing in every child of `barua up`: ties the child's life to its parent's, then becomes the real program.

``python -m control.supervisor.child PARENT_PID MODULE ARGUMENT...`` asks the kernel for a SIGTERM when the parent dies,
however it dies (prctl(2), PR_SET_PDEATHSIG), and runs MODULE as ``python -m MODULE ARGUMENT...`` would, in the same
process. SIGTERM rather than SIGKILL: a worker whose supervisor was killed still drains.

Why not ``preexec_fn``: it would run Python between fork and exec in a process that has threads.

Limits: Linux only; elsewhere a killed supervisor leaves its children running.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie, then run. ``arguments`` are PARENT_PID, MODULE and the arguments of MODULE."""
    parent, module = int(arguments[0]), arguments[1]
    end_with_parent(parent)
    sys.argv = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def end_with_parent(parent: int) -> None:
    """Have SIGTERM sent to this process when ``parent`` ends; exit now if it has ended already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died between our start and the call above
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
