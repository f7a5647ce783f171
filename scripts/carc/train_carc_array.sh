#!/usr/bin/env bash
# Methods times seeds, one job each, from the checkout: `sbatch --array=0-11 scripts/carc/train_carc_array.sh [MODEL] [FLAG…]`.
#   CONTINUAL_LEARNING_METHODS  with spaces between (full_ft lora smf casm)
#   CONTINUAL_LEARNING_SEEDS    with spaces between (0 1 2)
# Job I trains method I / n with seed number I % n, of n seeds.
# Reads CONTINUAL_LEARNING_{REPO,PYTHON,DATASET,CHECKPOINT_DIR,SAVE_EVERY,MODULES,SKIP_MODULES,SKIP_VENV,MAX_RESTARTS} as run_job.sh does.
#SBATCH --job-name=casm
#SBATCH --gpus=1
#SBATCH --mem=40G
#SBATCH --time=16:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ -e $here/main.py ]] || here=${SLURM_SUBMIT_DIR:-$here}  # sbatch runs a copy of this script from its spool
: "${CONTINUAL_LEARNING_REPO:=$here}"
[[ -e $CONTINUAL_LEARNING_REPO/scripts/carc/job.sh ]] || { echo "casm: no checkout in $CONTINUAL_LEARNING_REPO; set CONTINUAL_LEARNING_REPO, or submit from the checkout" >&2; exit 2; }
# shellcheck source=scripts/carc/job.sh
source "$CONTINUAL_LEARNING_REPO/scripts/carc/job.sh"

read -ra methods <<< "${CONTINUAL_LEARNING_METHODS:-full_ft lora smf casm}"
read -ra seeds <<< "${CONTINUAL_LEARNING_SEEDS:-0 1 2}"
last=$(( ${#methods[@]} * ${#seeds[@]} - 1 ))
task=${SLURM_ARRAY_TASK_ID:-none}
[[ $task =~ ^[0-9]+$ && $task -le $last ]] || fail "array task $task: ${#methods[@]} methods and ${#seeds[@]} seeds are sbatch --array=0-$last"
unset CONTINUAL_LEARNING_RUN_ID  # each job has its own, of method, model and seed
export CONTINUAL_LEARNING_SEED=${seeds[task % ${#seeds[@]}]}

job_environment
job_carc "${methods[task / ${#seeds[@]}]}" "$@"
