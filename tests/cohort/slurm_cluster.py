"""A real Slurm on this machine for a test: controller, node and munge in a scratch folder, stopped afterwards.

Needs root and Debian's `slurm-wlm` and `munge`. `ready()` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CONFIG = """\
ClusterName=moedifftest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16827
SlurmdPort=16828
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "scontrol", "sinfo")


def ready() -> str:
    """Why no Slurm can be started here; empty where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"no Slurm here ({', '.join(missing)} missing; Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "starting a Slurm needs root"


@dataclass(frozen=True)
class Slurm:
    """A running Slurm with two CPUs."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For programs that talk to it."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def run(self, *command: str) -> str:
        """Output of one of its commands."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self, *states: str) -> list[str]:
        """Numbers of jobs, the oldest first; in some states only, such as R or PD."""
        chosen = [f"--states={','.join(states)}"] if states else []
        return sorted(self.run("squeue", "--noheader", "--format=%i", *chosen).split(), key=int)

    def restart_controller(self) -> None:
        """Stop slurmctld and start it again, as on an upgrade."""
        self._stop("slurmctld")
        self._start("slurmctld")
        self.wait_until_idle_or_busy()

    def wait_until_idle_or_busy(self) -> None:
        """Until the node takes jobs."""
        until = time.monotonic() + 60
        while True:
            with suppress(subprocess.CalledProcessError):
                if self.run("sinfo", "--noheader", "--format=%T").strip() in ("idle", "mixed", "allocated"):
                    return
            assert time.monotonic() < until, (self.folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.2)

    def start(self) -> None:
        """Start munge, controller and node."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(host=socket.gethostname().split(".")[0], folder=self.folder)
        )
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        places = [f"--{option}={self.folder / name}" for option, name in {**names, "seed-file": "munge.seed"}.items()]
        self._start("munged", "--force", *places)
        self._start("slurmctld")
        self._start("slurmd")
        self.wait_until_idle_or_busy()

    def stop(self) -> None:
        """End its jobs, then its daemons."""
        with suppress(subprocess.CalledProcessError):
            self.run("scancel", "--user=root", "--full")
        for name in ("slurmctld", "slurmd", "munged"):
            self._stop(name)

    def _start(self, program: str, *arguments: str) -> None:
        done = subprocess.run([program, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def _stop(self, program: str) -> None:
        with suppress(OSError, ValueError):
            pid = int((self.folder / f"{program}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + 20
            while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
                time.sleep(0.05)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Slurm]:
    """A Slurm for a while."""
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
