#!/bin/bash
# A real SLURM of one node for tests, all of it below one folder.
#   slurm.sh start DIR [CPUS]    starts munge, slurmctld and slurmd; then: export SLURM_CONF=DIR/slurm.conf
#   slurm.sh stop DIR
# Needs the programs of Debian's packages munge and slurm-wlm, and root (slurmd starts jobs as their user).
# Two partitions: `low`, whose jobs are preempted (20 s of grace, then queued again), and `high`, which preempts.
set -eu
action=$1
dir=$(realpath -m "$2")
cpus=${3:-2}
host=$(hostname -s)

stop() {
    for name in slurmd slurmctld munged; do
        if [ -s "$dir/$name.pid" ]; then
            kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
        fi
    done
}

start() {
    mkdir -p "$dir/state" "$dir/spool"
    chmod 755 "$dir"
    for name in munged slurmctld slurmd; do
        command -v "$name" >/dev/null || PATH=$PATH:/usr/sbin command -v "$name" >/dev/null || {
            echo "there is no $name: apt-get install slurm-wlm munge" >&2
            exit 1
        }
    done
    PATH=$PATH:/usr/sbin
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    read -r ctl d < <(python3 -c '
import socket
held = [socket.socket() for _ in range(2)]
for s in held:
    s.bind(("", 0))
print(*(s.getsockname()[1] for s in held))')
    cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$ctl
SlurmdPort=$d
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=$host PriorityTier=10 PreemptMode=OFF
CONF
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --format=%t 2>/dev/null | grep -q idle; then
            return
        fi
        sleep 0.5
    done
    sinfo >&2 || true
    tail -n 20 "$dir/slurmctld.log" "$dir/slurmd.log" >&2 || true
    stop
    exit 1
}

"$action"
