#!/usr/bin/env bash
# A SLURM of one node on this machine, from Debian's packages, and the quickstart table through its sbatch (check_slurm.py).
# For a throw-away machine or container: it wants root, installs slurmctld, slurmd, slurm-client and munge if they are
# missing, and stops at its end the daemons that it has started.
#
#     tests/slurm/run.sh [python]        the Python that has this project with its extras book, test and workflow
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}

if [ "$(id -u)" != 0 ]; then
  echo "tests/slurm/run.sh starts slurmctld, slurmd and munged, and needs to be root (on a machine that may be thrown away)" >&2
  exit 1
fi
if ! command -v slurmctld slurmd munged sbatch > /dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
fi

home=$(mktemp -d)
node=$(hostname -s)
mkdir -p "$home/state" "$home/spool"
conf=/etc/slurm/slurm.conf # where Debian's looks; SLURM_CONF would not reach the steps within a job
if [ -e "$conf" ]; then
  echo "$conf is there already: this machine has a SLURM of its own, and this script would be in its way" >&2
  exit 1
fi
# No accounting database and no cgroups: neither comes up in a plain container. Jobs are followed through squeue.
mkdir -p "${conf%/*}"
cat > "$conf" <<CONF
ClusterName=book
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge.socket
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=5
MinJobAge=600
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 256)) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF

started=()
stop() {
  status=$?
  [ $status = 0 ] || tail -n 20 "$home"/*.log >&2
  for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; done
  wait
  rm -rf "$home" "$conf"
  exit $status
}
trap stop EXIT

# munged insists on a key and folders of its own user
dd if=/dev/urandom of="$home/munge.key" bs=128 count=1 status=none
mkdir "$home/munge"
chown munge: "$home" "$home/munge" "$home/munge.key"
chmod 600 "$home/munge.key"
chmod 711 "$home"
setpriv --reuid munge --regid munge --clear-groups munged --foreground --force --key-file="$home/munge.key" \
  --socket="$home/munge.socket" --pid-file="$home/munge/pid" --log-file="$home/munge/log" --seed-file="$home/munge/seed" &
started+=($!)
until [ -S "$home/munge.socket" ]; do sleep 0.2; done
slurmctld -D > "$home/slurmctld.log" 2>&1 &
started+=($!)
slurmd -D -N "$node" > "$home/slurmd.log" 2>&1 &
started+=($!)

for _ in $(seq 60); do
  [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && break
  sleep 1
done
sinfo

"$python" -m pytest -s -m slurm tests/slurm/check_slurm.py
