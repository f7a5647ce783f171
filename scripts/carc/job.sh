# shellcheck shell=bash
# What the job scripts share. They source it with the checkout in CONTINUAL_LEARNING_REPO.
AGAIN=75  # exit code of a run that saved itself and wants to be started again

fail() { echo "casm: $*" >&2; exit 2; }

# Into the checkout, with its modules and its environment. Where there is no `module` command or no venv/, the interpreter is used as it is.
job_environment() {
    local modules
    cd "$CONTINUAL_LEARNING_REPO"
    read -ra modules <<< "${CONTINUAL_LEARNING_MODULES-gcc/12.3.0 cuda/12.4.1}"
    set +eu  # neither the module command nor activate is written for these
    if [[ ${CONTINUAL_LEARNING_SKIP_MODULES:-0} != 1 && ${#modules[@]} != 0 ]]; then
        if ! type module >/dev/null 2>&1; then echo "casm: no module command here, none loaded" >&2
        else module load "${modules[@]}" || fail "module load ${modules[*]}: failed; list others in CONTINUAL_LEARNING_MODULES, or set CONTINUAL_LEARNING_SKIP_MODULES=1"; fi
    fi
    if [[ ${CONTINUAL_LEARNING_SKIP_VENV:-0} != 1 ]]; then
        if [[ ! -e venv/bin/activate ]]; then echo "casm: no venv in $PWD, none activated" >&2
        else
            # shellcheck disable=SC1091
            source venv/bin/activate
        fi
    fi
    set -eu
    : "${CONTINUAL_LEARNING_PYTHON:=python}"
    command -v "$CONTINUAL_LEARNING_PYTHON" >/dev/null || fail "CONTINUAL_LEARNING_PYTHON=$CONTINUAL_LEARNING_PYTHON: no such command"
}

# job_run COMMAND…: run it to its end and exit as it does. USR1 (the time is nearly up) is passed on, and a run that stopped for it goes
# back into the queue. TERM under Slurm is not passed on: Slurm has sent it to the command too, and puts back into the queue what it
# preempts, but not what is cancelled.
job_run() {
    local child code heard taken="" late=""
    "$@" &
    child=$!
    trap 'heard=1 late=1; kill -USR1 "$child" || true' USR1
    trap 'heard=1 taken=1; [[ ${SLURM_JOB_ID:-} ]] || kill -TERM "$child" || true' TERM
    trap 'heard=1 taken=1; kill -TERM "$child" || true' INT  # a command in the background does not hear Ctrl-C
    while :; do  # a trap ends `wait` early; asked again, it tells how the command ended
        heard="" code=0
        wait "$child" || code=$?
        [[ $heard ]] || break
    done
    [[ $late && $code == $((128 + $(kill -l USR1))) ]] && code=$AGAIN  # it was too early to hear it, and has nothing to save
    if [[ $code == "$AGAIN" && ${SLURM_JOB_ID:-} && ! $taken ]]; then
        if (( ${SLURM_RESTART_COUNT:-0} >= ${CONTINUAL_LEARNING_MAX_RESTARTS:-100} )); then
            echo "casm: restarted $SLURM_RESTART_COUNT times, not again; submit it with the same run id to go on" >&2
        else
            scontrol requeue "$SLURM_JOB_ID" || echo "casm: not put back into the queue; submit it with the same run id to go on" >&2
        fi
    fi
    exit "$code"
}

# job_carc METHOD [MODEL] [FLAG…]: run train_carc.py, by the command in `launch` if there is one
launch=()
job_carc() {
    local method=$1 model=""
    shift
    [[ $# == 0 || $1 == -* ]] || { model=$1; shift; }
    job_run "${launch[@]}" "$CONTINUAL_LEARNING_PYTHON" scripts/carc/train_carc.py --method "$method" ${model:+--model "$model"} \
        ${CONTINUAL_LEARNING_DATASET:+--facts "$CONTINUAL_LEARNING_DATASET"} \
        ${CONTINUAL_LEARNING_RUN_ID:+--run-id "$CONTINUAL_LEARNING_RUN_ID"} \
        ${CONTINUAL_LEARNING_CHECKPOINT_DIR:+--checkpoint-dir "$CONTINUAL_LEARNING_CHECKPOINT_DIR"} \
        ${CONTINUAL_LEARNING_SEED:+--seed "$CONTINUAL_LEARNING_SEED"} \
        ${CONTINUAL_LEARNING_SAVE_EVERY:+--save-every "$CONTINUAL_LEARNING_SAVE_EVERY"} "$@"
}
