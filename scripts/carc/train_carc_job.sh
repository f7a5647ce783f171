#!/usr/bin/env bash
# Batch door to train_carc.py: `sbatch scripts/carc/train_carc_job.sh METHOD [MODEL]` from the checkout. Submitted again, it continues.
# Reads CONTINUAL_LEARNING_{REPO,PYTHON,DATASET,CHECKPOINT_DIR,RUN_ID,SEED,SKIP_MODULES,SKIP_VENV} as run_job.sh does.
#SBATCH --job-name=casm
#SBATCH --gpus=1
#SBATCH --mem=40G
#SBATCH --time=16:00:00
set -euo pipefail
[[ $# == 1 || $# == 2 ]] || { echo "usage: train_carc_job.sh METHOD [MODEL]" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -e $here/main.py ]] || here=${SLURM_SUBMIT_DIR:-$here}  # sbatch runs a copy of this script from its spool
cd "${CONTINUAL_LEARNING_REPO:-$here}"
[[ ${CONTINUAL_LEARNING_SKIP_MODULES:-0} == 1 ]] || module load gcc/12.3.0 cuda/12.4.1
[[ ${CONTINUAL_LEARNING_SKIP_VENV:-0} == 1 ]] || source venv/bin/activate

exec "${CONTINUAL_LEARNING_PYTHON:-python}" scripts/carc/train_carc.py --method "$1" ${2:+--model "$2"} \
    ${CONTINUAL_LEARNING_DATASET:+--facts "$CONTINUAL_LEARNING_DATASET"} \
    ${CONTINUAL_LEARNING_RUN_ID:+--run-id "$CONTINUAL_LEARNING_RUN_ID"} \
    ${CONTINUAL_LEARNING_CHECKPOINT_DIR:+--checkpoint-dir "$CONTINUAL_LEARNING_CHECKPOINT_DIR"} \
    ${CONTINUAL_LEARNING_SEED:+--seed "$CONTINUAL_LEARNING_SEED"}
