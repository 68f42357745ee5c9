"""What scontrol of Slurm 22.05 and 23.11 prints, shortened: one GPU partition, one of CPUs, one that is closed."""

CONFIG = """\
Configuration data as of 2026-11-26T04:25:59
AccountingStorageHost   = localhost
AccountingStorageType   = accounting_storage/{accounting}
MinJobAge               = {age} sec
SLURM_VERSION           = 23.11.4

Slurmctld(primary) at head is UP
"""
PARTITIONS = """\
PartitionName=cpu AllowGroups=ALL AllowAccounts=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=NONE Hidden=NO \
MaxNodes=UNLIMITED MaxTime=7-00:00:00 MinNodes=0 Nodes=c[1-2] PreemptMode=OFF State=UP TotalCPUs=64 TotalNodes=2 \
SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED TRES=cpu=64,mem=256000M,node=2,billing=64
PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL AllocNodes=ALL Default=NO QoS=N/A DefaultTime=01:00:00 Hidden=NO \
MaxNodes=2 MaxTime=1-00:00:00 MinNodes=0 Nodes=g[1-3] PreemptMode=REQUEUE State=UP TotalCPUs=384 TotalNodes=3 \
SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED TRES=cpu=384,mem=3000000M,node=3,gres/gpu=20
PartitionName=old Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=(null) State=INACTIVE TotalCPUs=0 TotalNodes=0
"""
NODES = """\
NodeName=c1 Arch=x86_64 CoresPerSocket=16  CPUAlloc=0 CPUEfctv=32 CPUTot=32 CPULoad=14.80 AvailableFeatures=(null) \
ActiveFeatures=(null) Gres=(null) NodeAddr=c1 OS=Linux 6.1.0 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=128000 AllocMem=0 \
State=IDLE ThreadsPerCore=1 TmpDisk=0 Partitions=cpu  BootTime=2026-11-25T20:55:14 CfgTRES=cpu=32,mem=128000M,billing=32
NodeName=c2 Arch=x86_64 CPUTot=32 AvailableFeatures=(null) Gres=(null) RealMemory=128000 State=DOWN*+DRAIN \
Partitions=cpu  Reason=disk full [root@2026-11-20T10:00:00]
NodeName=g1 Arch=x86_64 CPUEfctv=128 CPUTot=128 AvailableFeatures=a100,ib Gres=gpu:a100:8(S:0-1) RealMemory=1000000 \
State=MIXED Partitions=gpu  CfgTRES=cpu=128,mem=1000000M,billing=128,gres/gpu=8
NodeName=g2 Arch=x86_64 CPUEfctv=128 CPUTot=128 AvailableFeatures=a100,ib Gres=gpu:a100:8(S:0-1),shard:16 \
RealMemory=1000000 State=ALLOCATED+PLANNED Partitions=gpu
NodeName=g3 Arch=x86_64 CPUEfctv=128 CPUTot=128 AvailableFeatures=v100 Gres=gpu:v100:4 RealMemory=500000 State=IDLE \
Partitions=gpu
"""
SMI = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""


def scontrol(accounting: str = "none", age: int = 300) -> str:
    """A stand-in for scontrol."""
    cases = [("config", CONFIG.format(accounting=accounting, age=age)), ("partition", PARTITIONS), ("node", NODES)]
    branches = "".join(f"{name})\ncat <<'END'\n{text}END\n;;\n" for name, text in cases)
    return f'case "$2" in\n{branches}esac'


def nvidia_smi(gpus: int) -> str:
    """A stand-in for nvidia-smi."""
    rows = "".join("NVIDIA H100 80GB HBM3, 550.54.15\n" for _ in range(gpus))
    return f"case \"$1\" in\n--query*)\ncat <<'END'\n{rows}END\n;;\n*)\ncat <<'END'\n{SMI}END\n;;\nesac"
