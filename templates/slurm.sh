# slurm.sh: how a run is started, seen and ended where Slurm has the machines. run.sh sources it where it lies beside it.
#
# We are on the login node, and the processes of the run are not: only Slurm can tell whether they live. What the run is
# doing stands in status/ as ever, written by job.sbatch over the disk that all nodes share.
#
#   start    sbatch, once for each attempt; 73 where Slurm refuses the job
#   status   more facts: job_id job_state job_reason job_not_requeued, and for a job that waits job_position
#            (`2 of 7 in debug`)
#   stop     lets the training save and end (USR2 to job.sbatch), then scancel; a job that waits is cancelled at once
#   log OFFSET [-f] node=K, since SECONDS node=K: of another node than the first
# shellcheck shell=sh disable=SC2034,SC2154 # run.sh sets what is not set here, and reads what is not read here

ask_again_seconds=10 # between two questions to the controller while a log is followed: it serves the whole cluster

# --- what Slurm says ---------------------------------------------------------------------------------------------------

# job_state, job_reason, job_partition, as they are now. GONE: Slurm knows no such job (any more). UNKNOWN: no answer.
look_at_job() {
    job=$(written slurm_job)
    job_reason=
    job_partition=
    if said=$(scontrol show job --oneliner "$job" 2>&1); then
        job_state=$(word JobState)
        job_reason=$(word Reason)
        job_partition=$(word Partition)
    else
        case $said in *'Invalid job id'*) job_state=GONE ;; *) job_state=UNKNOWN ;; esac
        job_reason=$(printf '%s' "$said" | head -n 1)
    fi
    looked_at=$(uptime_seconds)
}

word() { printf '%s\n' "$said" | head -n 1 | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }

# An answer that is young enough.
know_job() {
    [ -n "${looked_at-}" ] && [ $(($(uptime_seconds) - looked_at)) -lt "$ask_again_seconds" ] || look_at_job
}

# Whether anything may still come of the job. A controller that does not answer has not ended it.
job_lives() {
    [ -n "$(written slurm_job)" ] || return 1
    know_job
    case $job_state in
    COMPLETED | FAILED | CANCELLED* | TIMEOUT | NODE_FAIL | PREEMPTED | OUT_OF_MEMORY | BOOT_FAIL | DEADLINE | REVOKED | GONE) return 1 ;;
    esac
}

# A training that was cut short may come back: Slurm itself requeues what it takes back. Only when the job is over, that is
# the end of the run.
get() {
    fact=$(written "$1")
    if [ "$1" = phase ] && [ "$fact" = ended ] && may_come_back; then fact=starting; fi
    printf '%s\n' "$fact"
}

written() {
    fact=
    [ ! -f "$status/$1" ] || IFS= read -r fact <"$status/$1" || :
    printf '%s\n' "$fact"
}

may_come_back() {
    case $(written exit_code) in 75 | 76 | 137 | 143) ;; *) return 1 ;; esac
    [ ! -f "$status/stop_requested" ] && job_lives
}

# Asked five times a second while a log is followed: here, not in a subshell, an answer of Slurm's is remembered.
is_alive() { if [ "$(written phase)" = ended ]; then may_come_back; else job_lives; fi; }

# --- instead of run.sh's own -------------------------------------------------------------------------------------------

supervisor_lives() { job_lives; }

last_attempt() {
    last=$(get attempt)
    echo "${last:-0}"
}

start() {
    last=$(last_attempt)
    attempt=${1:-$((last + 1))}
    number "$attempt" || usage
    if [ "$attempt" -gt "$last" ] && supervisor_lives; then
        say "run $run_id is a job that lives; nothing was started"
    elif [ "$attempt" -gt "$last" ]; then
        submit "$attempt" || return
    fi
    looked_at=
    show_status
}

# A submission whose answer was lost is found by the job's name, which is the run's and nobody else's.
submit() {
    if ! mkdir "$status/submission.$1" 2>/dev/null; then
        tries=100
        until [ "$(get attempt)" = "$1" ] || [ $tries -le 0 ]; do
            tries=$((tries - 1))
            nap 0.1
        done
        [ "$(get attempt)" != "$1" ] || return 0
    fi
    rm -f "$status/exit_code" "$status/ended_at" "$status/stop_requested" "$status/first_failure" "$status/phase" "$status/not_requeued"
    job=$(squeue --noheader --name="$run_id" --format=%i 2>/dev/null | head -n 1)
    if [ -z "$job" ]; then
        if ! job=$(cd "$root" && sbatch --parsable job.sbatch 2>"$logs/sbatch.log"); then
            sed 's/^sbatch: error: //' "$logs/sbatch.log" >&2
            rmdir "$status/submission.$1"
            return 73
        fi
    fi
    put slurm_job "${job%%;*}"
    put phase starting
    put attempt "$1"
}

scheduler_facts() {
    job_lives
    echo "job_id=$(get slurm_job)"
    echo "job_state=${job_state-}"
    echo "job_reason=${job_reason-}"
    echo "job_not_requeued=$(get not_requeued)"
    if [ "${job_state-}" = PENDING ]; then echo "job_position=$(position)"; fi
}

# Among those that wait in its partition, in the order in which Slurm would start them.
position() {
    squeue --noheader --states=PENDING --partition="$job_partition" --sort=-p,i --format=%i 2>/dev/null |
        awk -v id="$job" -v partition="$job_partition" '
            { sub(/_.*/, "") } $1 == id { at = NR } END { if (at) print at " of " NR " in " partition }'
}

stop() {
    grace=${1:-300}
    number "$grace" || usage
    if [ "$(get phase)" = ended ] || ! job_lives; then
        show_status
        return 0
    fi
    put stop_requested "$(now)"
    case $job_state in
    RUNNING | SUSPENDED) scancel --batch --signal=USR2 "$job" 2>/dev/null ;;
    *) scancel "$job" ;;
    esac
    wait_for_job "$grace" || scancel "$job"
    wait_for_job 60
    looked_at=
    if job_lives; then
        show_status
        return 70
    fi
    # A job that was cancelled before it could write anything.
    [ "$(get phase)" = ended ] || finish "$(verdict 143)"
    show_status
}

# Until the job is over, at most $1 seconds.
wait_for_job() {
    deadline=$(($(uptime_seconds) + $1))
    while looked_at= && job_lives; do
        [ "$(uptime_seconds)" -lt "$deadline" ] || return 1
        nap 1
    done
}

# The logs of all nodes lie here, on the disk that they share.
for word in "$@"; do
    case $word in node=*[!0-9]*) ;; node=?*) log=$logs/node-${word#node=}.log index=$logs/node-${word#node=}.index ;; esac
done
