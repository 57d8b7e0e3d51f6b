"""What the test cluster is: its nodes, its partitions, and the files that SLURM reads."""

import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Settings = Mapping[str, str | int]

MARK = "# the test cluster of vibench, made anew each time\n"  # what we may overwrite begins with it
GRACE_S = 20  # between the signal and the end of a job that is preempted in a partition named *-grace
REQUEUE_S = 5  # that a requeued job waits, and one second more; 120 if nothing is said


@dataclass(frozen=True)
class Node:
    name: str
    card: str
    gpus: int
    cpus: int
    memory_mb: int


NODES = (
    Node("a100n1", "a100", gpus=4, cpus=16, memory_mb=96000),
    Node("a100n2", "a100", gpus=4, cpus=16, memory_mb=96000),
    Node("v100n1", "v100", gpus=2, cpus=8, memory_mb=48000),
    Node("rtx3090n1", "rtx3090", gpus=1, cpus=8, memory_mb=32000),
    Node("rtx4090n1", "rtx4090", gpus=1, cpus=8, memory_mb=32000),
)
PARTITIONS = {"a100": "a100n1,a100n2", "v100": "v100n1", "rtx": "rtx3090n1,rtx4090n1"}  # each thrice, see _partitions
DEFAULT = "rtx"

SETTINGS: Settings = {
    "ClusterName": "vibench",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "SlurmctldDebug": "info",
    "SlurmdDebug": "info",
    "ProctrackType": "proctrack/linuxproc",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU_Memory",
    "SlurmdParameters": "config_overrides",  # nodes are larger than the machine they are on
    "GresTypes": "gpu",
    "MpiDefault": "none",
    "SwitchType": "switch/none",
    "JobCompType": "jobcomp/none",
    "MailProg": "/bin/true",
    "EnforcePartLimits": "ALL",  # what no node can ever satisfy is refused by sbatch, not left pending
    "DefMemPerCPU": 2000,
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "JobRequeue": 1,
    "ReturnToService": 2,  # a node that was down is of use as soon as it registers
    "PropagateResourceLimits": "NONE",
    "MaxJobCount": 10000,
    "MaxArraySize": 101,  # indices 0 to 100: few jobs are enough to see an array split
    "SlurmdTimeout": 10,
    "SlurmctldTimeout": 10,
    "MessageTimeout": 5,  # how long a node that is gone is asked again before it counts as silent
    "KillWait": 5,
    "MinJobAge": 600,  # for which scontrol knows a job that is over
    "UnkillableStepTimeout": 30,
    "SchedulerParameters": "sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2",
}
WITH_ACCOUNTING: Settings = {
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageHost": "127.0.0.1",
    "AccountingStorageEnforce": "safe",
    "AccountingStorageTRES": ",".join(["gres/gpu", *sorted({f"gres/gpu:{node.card}" for node in NODES})]),
    "AccountingStoreFlags": "job_comment,job_env,job_script",
}
WITHOUT_ACCOUNTING: Settings = {"AccountingStorageType": "accounting_storage/none"}
MEMORY: Mapping[str, Settings] = {
    "cgroup": {
        "TaskPlugin": "task/cgroup",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
    },
    "poll": {
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill,NoShared",
    },
}


@dataclass(frozen=True)
class Ports:
    slurmctld: int
    slurmdbd: int
    slurmd: tuple[int, ...]


def write(folder: Path, ports: Ports, *, accounting: bool, memory: str, settings: Settings) -> None:
    """Everything that the daemons read, into ``folder``."""
    (folder / "slurm.conf").write_text(_slurm(folder, ports, accounting=accounting, memory=memory, settings=settings))
    (folder / "gres.conf").write_text(_gres(folder))
    (folder / "cgroup.conf").write_text(_cgroup(folder))
    secret = folder / "slurmdbd.conf"  # slurmdbd looks for it beside slurm.conf, and insists on its mode
    secret.touch(mode=0o600)
    secret.write_text(_slurmdbd(folder, ports))
    for number in range(sum(node.gpus for node in NODES)):  # a plain file would give no CUDA_VISIBLE_DEVICES
        os.mknod(folder / "devices" / f"nvidia{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _lines(settings: Settings) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _authentication(folder: Path) -> str:
    return f"socket={folder}/munge/socket,cred_expire={REQUEUE_S}"


def _slurm(folder: Path, ports: Ports, *, accounting: bool, memory: str, settings: Settings) -> str:
    here = {
        "SlurmctldHost": f"{_host()}(127.0.0.1)",
        "SlurmctldPort": ports.slurmctld,
        "AuthInfo": _authentication(folder),
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool" / "%n",
        "SlurmctldPidFile": folder / "pid" / "slurmctld",
        "SlurmdPidFile": folder / "pid" / "%n",
        "SlurmctldLogFile": folder / "log" / "slurmctld.log",
        "SlurmdLogFile": folder / "log" / "%n.log",
    }
    if accounting:
        here |= {"AccountingStoragePort": ports.slurmdbd, "AccountingStoragePass": folder / "munge" / "socket"}
    chosen = {**SETTINGS, **(WITH_ACCOUNTING if accounting else WITHOUT_ACCOUNTING), **MEMORY[memory], **here}
    return MARK + _lines({**chosen, **settings}) + _nodes(ports) + _partitions()


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _nodes(ports: Ports) -> str:
    return "".join(
        f"NodeName={node.name} NodeHostname={_host()} NodeAddr=127.0.0.1 Port={port} CPUs={node.cpus} "
        f"RealMemory={node.memory_mb} Gres=gpu:{node.card}:{node.gpus} Feature={node.card}\n"
        for node, port in zip(NODES, ports.slurmd, strict=True)
    )


def _partitions() -> str:
    """Jobs of ``a100-hi`` preempt those of ``a100``, at once, and those of ``a100-grace``, after a while."""
    low, high = (
        "PriorityTier=1 PreemptMode=REQUEUE MaxTime=1-00:00:00",
        "PriorityTier=10 PreemptMode=OFF MaxTime=4:00:00",
    )
    kinds = {"": f"{low} GraceTime=0", "-grace": f"{low} GraceTime={GRACE_S}", "-hi": high}
    each = [(name, kind, nodes) for name, nodes in PARTITIONS.items() for kind in kinds]
    return "".join(
        f"PartitionName={name}{kind} Nodes={nodes} {kinds[kind]} Default={'YES' if name + kind == DEFAULT else 'NO'}\n"
        for name, kind, nodes in [*each, ("all", "", "ALL")]
    )


def _gres(folder: Path) -> str:
    lines, first = ["AutoDetect=off"], 0
    for node in NODES:
        files = f"{folder}/devices/nvidia[{first}-{first + node.gpus - 1}]"
        lines.append(f"NodeName={node.name} Name=gpu Type={node.card} File={files}")
        first += node.gpus
    return "\n".join(lines) + "\n"


def _cgroup(folder: Path) -> str:
    return _lines(
        {
            "CgroupPlugin": "cgroup/v1",
            "CgroupMountpoint": folder / "cgroup",
            "CgroupAutomount": "no",
            "ConstrainRAMSpace": "yes",
            "ConstrainSwapSpace": "no",
            "ConstrainCores": "no",
            "ConstrainDevices": "no",
            "MinRAMSpace": 30,
        }
    )


def _slurmdbd(folder: Path, ports: Ports) -> str:
    return _lines(
        {
            "AuthType": "auth/munge",
            "AuthInfo": _authentication(folder),
            "DbdHost": _host(),
            "DbdAddr": "127.0.0.1",
            "DbdPort": ports.slurmdbd,
            "SlurmUser": "root",
            "LogFile": folder / "log" / "slurmdbd.log",
            "PidFile": folder / "pid" / "slurmdbd",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",  # by the socket that MYSQL_UNIX_PORT names
            "StorageUser": "root",
            "StorageLoc": "slurm_acct_db",
            "DebugLevel": "info",
        }
    )
