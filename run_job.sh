#!/usr/bin/env bash
# Batch door to main.py: `sbatch run_job.sh` or `bash run_job.sh`. Submitted again with the same run id, it continues.
#   CONTINUAL_LEARNING_REPO            checkout to run (this script's folder)
#   CONTINUAL_LEARNING_PYTHON          interpreter (python)
#   CONTINUAL_LEARNING_MODE            real or synthetic (real)
#   CONTINUAL_LEARNING_DATASET         facts file; needed by real
#   CONTINUAL_LEARNING_MODEL_ID        model folder or name (the tiny model)
#   CONTINUAL_LEARNING_METHOD          full_ft, lora, smf or casm (casm)
#   CONTINUAL_LEARNING_SEED            seed (0)
#   CONTINUAL_LEARNING_CHECKPOINT_DIR  where run folders are (checkpoints)
#   CONTINUAL_LEARNING_RUN_ID          name of the run (slurm_JOBID)
#   CONTINUAL_LEARNING_SKIP_MODULES=1  load no gcc and cuda modules
#   CONTINUAL_LEARNING_SKIP_VENV=1     do not activate venv/ of the checkout
#SBATCH --job-name=casm
#SBATCH --gpus=1
#SBATCH --mem=40G
#SBATCH --time=16:00:00
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ -e $here/main.py ]] || here=${SLURM_SUBMIT_DIR:-$here}  # sbatch runs a copy of this script from its spool
cd "${CONTINUAL_LEARNING_REPO:-$here}"
[[ ${CONTINUAL_LEARNING_SKIP_MODULES:-0} == 1 ]] || module load gcc/12.3.0 cuda/12.4.1
[[ ${CONTINUAL_LEARNING_SKIP_VENV:-0} == 1 ]] || source venv/bin/activate

exec "${CONTINUAL_LEARNING_PYTHON:-python}" main.py \
    --mode "${CONTINUAL_LEARNING_MODE:-real}" \
    --method "${CONTINUAL_LEARNING_METHOD:-casm}" \
    ${CONTINUAL_LEARNING_DATASET:+--dataset-name "$CONTINUAL_LEARNING_DATASET"} \
    ${CONTINUAL_LEARNING_MODEL_ID:+--model-name "$CONTINUAL_LEARNING_MODEL_ID"} \
    --run-id "${CONTINUAL_LEARNING_RUN_ID:-slurm_${SLURM_JOB_ID:-manual}}" \
    --checkpoint-dir "${CONTINUAL_LEARNING_CHECKPOINT_DIR:-checkpoints}" \
    --seed "${CONTINUAL_LEARNING_SEED:-0}"
