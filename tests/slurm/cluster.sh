#!/usr/bin/env bash
# A Slurm of one node with everything it owns in DIR: `cluster.sh start DIR`, `cluster.sh stop DIR`. SLURM_CONF=DIR/slurm.conf
# leads sbatch and its kin to it. Jobs run as whoever started it. Only the processes that DIR's pid files name are ended.
set -euo pipefail
[[ $# == 2 && $1 =~ ^(start|stop)$ ]] || { echo "usage: cluster.sh start|stop DIR" >&2; exit 2; }
export PATH=$PATH:/usr/sbin

stop() {
    local name pid
    export SLURM_CONF=$1/slurm.conf
    if [[ -s $1/slurmctld.pid ]] && timeout 10 scancel --user="$(id -un)" 2>/dev/null; then  # and wait: a job's own daemon would outlive the others
        for _ in {1..80}; do [[ $(timeout 10 squeue --noheader 2>/dev/null) ]] || break; sleep .5; done
    fi
    for name in slurmctld slurmd munged; do
        [[ -s $1/$name.pid ]] || continue
        pid=$(<"$1/$name.pid")
        [[ $(ps -o comm= -p "$pid") == "$name" ]] || continue
        kill "$pid"
        for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep .1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
}

start() {
    local name host me
    for name in munged slurmctld slurmd sbatch python3; do
        command -v "$name" >/dev/null || { echo "cluster.sh: no $name; apt-get install slurm-wlm munge" >&2; exit 2; }
    done
    host=$(hostname -s) me=$(id -un)
    mkdir -p "$1"/{state,spool}
    head -c 1024 /dev/urandom > "$1/munge.key"
    chmod 400 "$1/munge.key"
    # shellcheck disable=SC2046
    set -- "$1" $(python3 -c 'import socket; s = [socket.create_server(("", 0)) for _ in "ab"]; print(*(x.getsockname()[1] for x in s))')
    cat > "$1/slurm.conf" <<CONF
ClusterName=casm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$2
SlurmdPort=$3
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$1/munge.socket
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
MessageTimeout=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF=$1/slurm.conf
    munged --force --key-file="$1/munge.key" --socket="$1/munge.socket" --pid-file="$1/munged.pid" --log-file="$1/munged.log" --seed-file="$1/munge.seed"
    slurmctld -c -f "$SLURM_CONF"
    slurmd -c -f "$SLURM_CONF"
    for _ in {1..60}; do
        [[ $(sinfo --noheader --format=%t 2>/dev/null) =~ ^(idle|mix|alloc)$ ]] && return
        sleep .5
    done
    echo "cluster.sh: the node did not come up within 30 s" >&2
    tail -n 20 "$1"/{slurmctld,slurmd}.log >&2
    stop "$1"
    exit 1
}

dir=$(realpath -m "$2")
"$1" "$dir"
