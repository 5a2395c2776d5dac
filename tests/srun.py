"""Stands in for SLURM's srun: starts the tasks of a step on this host and hands them signals.

Unlike srun it leaves the other tasks alone when one fails. Writes `task<i>.pid` and `task<i>.log`
into the folder SRUN_LOGS, and ends with the largest code of a task.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    command = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
    logs, count = Path(os.environ["SRUN_LOGS"]), int(os.environ["SLURM_NTASKS"])
    tasks = []
    for index in range(count):
        told = {"SLURM_PROCID": str(index), "SLURM_LOCALID": "0"}
        with (logs / f"task{index}.log").open("w") as log:
            task = subprocess.Popen(command, env=os.environ | told, stdout=log, stderr=log)
        (logs / f"task{index}.pid").write_text(str(task.pid))
        tasks.append(task)
    signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
    codes = [task.wait() for task in tasks]
    (logs / "codes").write_text(" ".join(map(str, codes)))
    return max(abs(code) for code in codes)


if __name__ == "__main__":
    sys.exit(main())
