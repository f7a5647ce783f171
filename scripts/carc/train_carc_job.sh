#!/usr/bin/env bash
# Batch door to train_carc.py, from the checkout: `sbatch scripts/carc/train_carc_job.sh METHOD [MODEL] [FLAG…]`. Submitted again, it continues.
# Reads CONTINUAL_LEARNING_{REPO,PYTHON,DATASET,CHECKPOINT_DIR,RUN_ID,SEED,SAVE_EVERY,MODULES,SKIP_MODULES,SKIP_VENV,MAX_RESTARTS} as run_job.sh does.
#SBATCH --job-name=casm
#SBATCH --gpus=1
#SBATCH --mem=40G
#SBATCH --time=16:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
[[ $# -ge 1 ]] || { echo "usage: train_carc_job.sh METHOD [MODEL] [FLAG…]" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -e $here/main.py ]] || here=${SLURM_SUBMIT_DIR:-$here}  # sbatch runs a copy of this script from its spool
: "${CONTINUAL_LEARNING_REPO:=$here}"
[[ -e $CONTINUAL_LEARNING_REPO/scripts/carc/job.sh ]] || { echo "casm: no checkout in $CONTINUAL_LEARNING_REPO; set CONTINUAL_LEARNING_REPO, or submit from the checkout" >&2; exit 2; }
# shellcheck source=scripts/carc/job.sh
source "$CONTINUAL_LEARNING_REPO/scripts/carc/job.sh"

job_environment
job_carc "$@"
