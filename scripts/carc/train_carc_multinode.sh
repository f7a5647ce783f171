#!/usr/bin/env bash
# train_carc.py in one process per GPU, on one node or several, from the checkout:
# `sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 scripts/carc/train_carc_multinode.sh METHOD [MODEL] [FLAG…]`. Submitted again, it continues.
# Reads CONTINUAL_LEARNING_{REPO,PYTHON,DATASET,CHECKPOINT_DIR,RUN_ID,SEED,SAVE_EVERY,MODULES,SKIP_MODULES,SKIP_VENV,MAX_RESTARTS} as run_job.sh does.
# srun starts the processes itself: torchrun between them would die of USR1, and make an exit code of 1 of every other.
#SBATCH --job-name=casm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --mem=40G
#SBATCH --time=16:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
[[ $# -ge 1 ]] || { echo "usage: train_carc_multinode.sh METHOD [MODEL] [FLAG…]" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -e $here/main.py ]] || here=${SLURM_SUBMIT_DIR:-$here}  # sbatch runs a copy of this script from its spool
: "${CONTINUAL_LEARNING_REPO:=$here}"
[[ -e $CONTINUAL_LEARNING_REPO/scripts/carc/job.sh ]] || { echo "casm: no checkout in $CONTINUAL_LEARNING_REPO; set CONTINUAL_LEARNING_REPO, or submit from the checkout" >&2; exit 2; }
# shellcheck source=scripts/carc/job.sh
source "$CONTINUAL_LEARNING_REPO/scripts/carc/job.sh"

job_environment
[[ ${SLURM_JOB_NODELIST:-} ]] || fail "train_carc_multinode.sh runs under Slurm; on one machine: torchrun --nproc-per-node N scripts/carc/train_carc.py --method $1"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$(( 20000 + SLURM_JOB_ID % 20000 ))
# On a node without GPUs accelerate joins the processes only when told to.
# shellcheck disable=SC2016,SC2034  # for the shells that srun starts; for job_carc
launch=(srun --kill-on-bad-exit=0 --wait=300 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    [[ -e /dev/nvidiactl || -e /dev/kfd ]] || export ACCELERATE_USE_CPU=1
    exec "$@"' casm)
job_carc "$@"
