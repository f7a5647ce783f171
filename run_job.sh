#!/usr/bin/env bash
# Batch door to main.py: `sbatch run_job.sh` or `bash run_job.sh`. Started again with the same run id, it continues (docs/clusters.md).
#   CONTINUAL_LEARNING_REPO            checkout to run (this script's folder)
#   CONTINUAL_LEARNING_PYTHON          interpreter (python)
#   CONTINUAL_LEARNING_MODE            real or synthetic (real)
#   CONTINUAL_LEARNING_DATASET         facts file; needed by real
#   CONTINUAL_LEARNING_MODEL_ID        model folder or name (the tiny model)
#   CONTINUAL_LEARNING_METHOD          full_ft, lora, smf or casm (casm)
#   CONTINUAL_LEARNING_SEED            seed (0)
#   CONTINUAL_LEARNING_CHECKPOINT_DIR  where run folders are (checkpoints)
#   CONTINUAL_LEARNING_RUN_ID          name of the run (slurm_JOBID)
#   CONTINUAL_LEARNING_RESUME          run id or folder of a run that must be there, to be continued
#   CONTINUAL_LEARNING_SAVE_EVERY      optimiser steps between checkpoints within a period
#   CONTINUAL_LEARNING_MODULES         modules to load where there is a module command (gcc/12.3.0 cuda/12.4.1)
#   CONTINUAL_LEARNING_SKIP_MODULES=1  load none
#   CONTINUAL_LEARNING_SKIP_VENV=1     do not activate the checkout's venv/, should there be one
#   CONTINUAL_LEARNING_MAX_RESTARTS    restarts after which it stays out of the queue (100)
#SBATCH --job-name=casm
#SBATCH --gpus=1
#SBATCH --mem=40G
#SBATCH --time=16:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ -e $here/main.py ]] || here=${SLURM_SUBMIT_DIR:-$here}  # sbatch runs a copy of this script from its spool
: "${CONTINUAL_LEARNING_REPO:=$here}"
[[ -e $CONTINUAL_LEARNING_REPO/scripts/carc/job.sh ]] || { echo "casm: no checkout in $CONTINUAL_LEARNING_REPO; set CONTINUAL_LEARNING_REPO, or submit from the checkout" >&2; exit 2; }
# shellcheck source=scripts/carc/job.sh
source "$CONTINUAL_LEARNING_REPO/scripts/carc/job.sh"

job_environment
[[ ${CONTINUAL_LEARNING_RESUME:-} ]] || : "${CONTINUAL_LEARNING_RUN_ID:=slurm_${SLURM_JOB_ID:-manual}}"
job_run "$CONTINUAL_LEARNING_PYTHON" main.py \
    --mode "${CONTINUAL_LEARNING_MODE:-real}" \
    --method "${CONTINUAL_LEARNING_METHOD:-casm}" \
    ${CONTINUAL_LEARNING_DATASET:+--dataset-name "$CONTINUAL_LEARNING_DATASET"} \
    ${CONTINUAL_LEARNING_MODEL_ID:+--model-name "$CONTINUAL_LEARNING_MODEL_ID"} \
    ${CONTINUAL_LEARNING_RUN_ID:+--run-id "$CONTINUAL_LEARNING_RUN_ID"} \
    ${CONTINUAL_LEARNING_RESUME:+--resume-from "$CONTINUAL_LEARNING_RESUME"} \
    --checkpoint-dir "${CONTINUAL_LEARNING_CHECKPOINT_DIR:-checkpoints}" \
    --seed "${CONTINUAL_LEARNING_SEED:-0}" \
    ${CONTINUAL_LEARNING_SAVE_EVERY:+--save-every "$CONTINUAL_LEARNING_SAVE_EVERY"}
