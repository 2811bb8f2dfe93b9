#!/bin/sh
# run.sh: keeps one training run, on the machine that trains. It lies in the run's folder beside run.env.
#
#   run.sh start [ATTEMPT]   start in a session of its own and return at once; an attempt that was started is not started again
#   run.sh supervise ATTEMPT what `start` starts, and what a batch system may start itself: stays until the run has ended
#   run.sh status            what is true now, as key=value lines, `end=yes` last
#   run.sh log OFFSET [-f]   the log's bytes from OFFSET on; -f goes on until the run has ended or stdin is closed
#   run.sh since SECONDS     the log's size that long ago, by this machine's clock, to the minute
#   run.sh stop [SECONDS]    ask every training process to save and end, wait that long, then kill; proves that all are gone
#   run.sh worker            (inside) one training process, as the starter starts it
#
# Its folder:  run.env code/ train.yaml logs/ status/ checkpoints/ metrics.jsonl
#   logs/train.log    what the training says        logs/starter.log  what torchrun or accelerate says about it
#   status/           one small file a fact, each replaced by rename: phase pid boot started_at heartbeat exit_code ...
#
# run.env is the only input: NAME='value' lines, for sh. GPTOPS_RUN_ID, GPTOPS_STARTER and GPTOPS_COMMAND (both shell
# words) and GPTOPS_EXPECTED_PROCESSES are ours, GPTOPS_VENV too; everything else is the environment of the training.
# With several machines also GPTOPS_NODES, GPTOPS_NODE_RANK, GPTOPS_RENDEZVOUS (HOST:PORT, on the first), GPTOPS_ADDRESS and
# GPTOPS_INTERFACE (of this one): each machine has this script in a run's folder of its own, and knows nothing of the others.
#
# Why so: torchrun starts each worker in a session of its own, so a dead torchrun leaves its workers alive; it gives a
# worker 30 s between SIGTERM and SIGKILL, too little to save a large model; and whatever a worker's exit code was, its own
# is 1. Hence SIGTERM goes to the training processes themselves, never to the starter; each one's exit code is recorded by
# `worker`; and every process of the run is found by a mark in its environment, not by its process group alone.
#
# Exit codes: 0 done, 64 wrong use, 66 the log is shorter than OFFSET, 69 the machine lacks something, 70 something survived.
set -u
unset CDPATH

root=$(cd "$(dirname "$0")" && pwd -P && echo .) || exit 69
root=${root%??}
status=$root/status
logs=$root/logs
log=$logs/train.log
index=$logs/index
proc=${GPTOPS_PROC:-/proc} # where there is none, as on macOS, `ps` is asked

heartbeat_seconds=2
stuck_seconds=5
index_every=30 # heartbeats between two lines of logs/index

say() { printf 'run.sh: %s\n' "$*" >&2; }
now() { date +%s; }

# Seconds that no correction of the clock moves, where the system tells them.
uptime_seconds() {
    if { IFS=' .' read -r up _ <"$proc/uptime"; } 2>/dev/null; then echo "$up"; else now; fi
}

nap() { sleep "$1" 2>/dev/null || sleep 1; }

# --- facts: status/NAME, whole or absent -------------------------------------------------------------------------------

put() { printf '%s\n' "$2" >"$status/$1.tmp$$" && mv -f "$status/$1.tmp$$" "$status/$1"; }

# Always one line, "" where there is none.
get() {
    fact=
    [ ! -f "$status/$1" ] || IFS= read -r fact <"$status/$1" || :
    printf '%s\n' "$fact"
}

number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }

# --- processes ---------------------------------------------------------------------------------------------------------

boot_now() {
    cat "$proc/sys/kernel/random/boot_id" 2>/dev/null || sysctl -n kern.bootsessionuuid 2>/dev/null || echo unknown
}

# When process $1 started: with the boot, what makes a pid unique. Fails where there is no such process, or only its zombie.
born() {
    if [ -d "$proc/self" ]; then
        { IFS= read -r facts <"$proc/$1/stat"; } 2>/dev/null || return 1
        # shellcheck disable=SC2086 # the words after the name, which may hold anything, are plain
        set -- ${facts##*) }
        case $1 in Z | X) return 1 ;; esac
        echo "${20}"
    else
        facts=$(ps -o stat= -o lstart= -p "$1" 2>/dev/null) || return 1
        case $facts in '' | Z*) return 1 ;; esac
        # shellcheck disable=SC2086
        set -- $facts
        shift
        echo "$*" | tr -s ' :' '__'
    fi
}

# Is "PID BORN" (a recorded process) that same process still?
lives() {
    # shellcheck disable=SC2086 # two words, written by us
    set -- $1
    [ $# -eq 2 ] && [ "$(get boot)" = "$boot" ] && [ "$(born "$1")" = "$2" ]
}

supervisor_lives() { lives "$(get pid)"; }

# The pids of every living process of this run, the supervisor apart.
members() {
    {
        grep -lF "GPTOPS_MEMBER_OF=$mark" "$proc"/[0-9]*/environ 2>/dev/null | sed 's|/environ$||; s|.*/||'
        recorded_members
    } | sort -u | while read -r pid; do
        ! born "$pid" >/dev/null || echo "$pid"
    done
}

# The same from what was recorded: the workers, and where there is no /proc, the process groups of them and the starter.
recorded_members() {
    [ "$(get boot)" = "$boot" ] || return 0
    groups=" $(get pgid) "
    for file in "$status"/workers/*.pid; do
        { IFS= read -r pair <"$file"; } 2>/dev/null || continue
        ! lives "$pair" || echo "${pair% *}"
        groups="$groups$(get "workers/$(basename "$file" .pid).pgid") "
    done
    if [ -d "$proc/self" ] || [ "$(get phase)" = ended ]; then return 0; fi
    ps -A -o pid= -o pgid= | while read -r pid group; do
        case $groups in *" $group "*) echo "$pid" ;; esac
    done
}

# Replace this (sub)shell by a command that leads a session of its own.
exec_in_own_session() {
    if command -v setsid >/dev/null 2>&1; then exec setsid "$@"; fi
    for python in python3 python; do
        if command -v "$python" >/dev/null 2>&1; then
            exec "$python" -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
        fi
    done
    say "this machine has neither setsid nor python3: a run could not outlive its connection"
    exit 69
}

# --- run.env -----------------------------------------------------------------------------------------------------------

# One variable of run.env, without letting the others into this shell.
setting() (
    # shellcheck disable=SC1091
    . "$root/run.env" && eval "printf '%s\\n' \"\${$1-}\""
)

# The environment of the training. Only ever called in a subshell that then becomes a program: run.env may name any
# variable of this script. Those called GPTOPS_* it cannot.
# shellcheck disable=SC2034 # they are exported
load_environment() {
    set -a
    GPTOPS_ROOT=$root
    GPTOPS_MEMBER_OF=$mark
    # shellcheck disable=SC1091
    . "$root/run.env"
    if [ -n "${GPTOPS_VENV-}" ]; then
        VIRTUAL_ENV=$(venv_folder "$GPTOPS_ROOT" "$GPTOPS_VENV")
        PATH=$VIRTUAL_ENV/bin:$PATH
    fi
    if [ -n "${GPTOPS_INTERFACE-}" ]; then
        # Without it gloo looks up the machine's own name, falls back to loopback, and hangs.
        GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$GPTOPS_INTERFACE}
        NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-=$GPTOPS_INTERFACE} # `=`: this one, not all that begin like it
    fi
    PYTHONUNBUFFERED=1
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(threads_each)}
    set +a
}

# A relative GPTOPS_VENV starts at the run's folder.
venv_folder() { case $2 in /*) printf '%s' "$2" ;; *) printf '%s' "$1/$2" ;; esac; }

# torchrun would say 1, and PyTorch alone would take every core for every process.
threads_each() {
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    each=$((cores * ${GPTOPS_NODES:-1} / ${GPTOPS_EXPECTED_PROCESSES:-1}))
    [ "$each" -ge 1 ] || each=1
    echo "$each"
}

# --- start, supervise, worker ------------------------------------------------------------------------------------------

start() {
    last=$(last_attempt)
    attempt=${1:-$((last + 1))}
    number "$attempt" || usage
    if [ "$attempt" -gt "$last" ] && { supervisor_lives || [ -n "$(members)" ]; }; then
        say "run $run_id is running; nothing was started"
        attempt=$last
    fi
    if [ "$attempt" -gt "$last" ]; then
        (exec_in_own_session sh "$root/run.sh" supervise "$attempt" </dev/null >>"$logs/supervisor.log" 2>&1) &
        await_supervisor "$attempt" || return 69
    fi
    show_status
}

# Until the supervisor has written its facts: from then on the run can be found.
await_supervisor() {
    tries=100
    until [ "$(get attempt)" = "$1" ]; do
        tries=$((tries - 1))
        if [ $tries -le 0 ]; then
            say "the supervisor did not start; its last words:"
            tail -n 5 "$logs/supervisor.log" >&2
            return 1
        fi
        nap 0.05
    done
}

last_attempt() {
    last=0
    for claim in "$status"/attempt.*; do
        claim=${claim##*.}
        if number "$claim" && [ "$claim" -gt "$last" ]; then last=$claim; fi
    done
    echo "$last"
}

supervise() {
    number "${1:-}" || usage
    # mkdir succeeds once: two starts of one attempt make one supervisor.
    mkdir "$status/attempt.$1" 2>/dev/null || return 0
    begin "$1" || exit 69
    trap 'put stop_requested "$(now)"; ask_workers_to_end' TERM INT
    trap '' HUP
    (exec_starter) </dev/null >>"$logs/starter.log" 2>&1 &
    starter=$!
    put pgid "$starter"
    beat "$$" &
    heart=$!
    [ -z "$(setting GPTOPS_NODES)" ] || end_stuck_starter "$starter" &
    watcher=$!
    await_starter
    kill "$watcher" 2>/dev/null # at once: the starter's number may soon be another process's
    end_stragglers
    quote_starter "$code" >>"$log"
    finish "$(verdict "$code")"
    kill "$heart" 2>/dev/null
}

begin() {
    rm -rf "$status/workers" "$status/exit_code" "$status/ended_at" "$status/stop_requested" "$status/first_failure"
    mkdir -p "$status/workers" &&
        dd if=/dev/zero of="$status/reserve" bs=1024 count=64 2>/dev/null && # for the last facts, should the disk be full
        put boot "$boot" && put pid "$$ $(born $$)" && put phase starting &&
        put started_at "$(now)" && put heartbeat "$(now)" || return 1
    [ "$1" -eq 1 ] || printf 'run.sh: attempt %s\n' "$1" >>"$log"
    put attempt "$1"
}

exec_starter() {
    cd "$root" || exit 69
    load_environment
    eval "set -- ${GPTOPS_STARTER-}"
    [ "${GPTOPS_NODES:-1}" -eq 1 ] || meet "$@"
    case "$*" in *torch.distributed.run*--standalone*) own_name_resolves || set -- "$@" --local-addr=127.0.0.1 ;; esac
    exec_in_own_session "$@" sh ./run.sh worker
}

# torchrun --standalone goes by the machine's own name, and waits for ever where nobody knows it.
own_name_resolves() {
    python -c 'import socket; socket.getaddrinfo(socket.gethostname(), None)' 2>/dev/null
}

# Become the starter of one of several machines. Who holds the meeting is said, and by which address each is known:
# torchrun would look that up under the machine's own name, which nobody may know.
meet() {
    host=0
    [ "$GPTOPS_NODE_RANK" -ne 0 ] || host=1
    exec_in_own_session "$@" "--nnodes=$GPTOPS_NODES" "--node-rank=$GPTOPS_NODE_RANK" "--local-addr=$GPTOPS_ADDRESS" \
        --rdzv-backend=c10d "--rdzv-endpoint=$GPTOPS_RENDEZVOUS" "--rdzv-id=$GPTOPS_RUN_ID.$(get attempt)" \
        "--rdzv-conf=is_host=$host,join_timeout=300" sh ./run.sh worker
}

# A sign of life for as long as the supervisor has one, and now and then where in the log we are.
beat() {
    trap - TERM INT
    count=0
    while kill -0 "$1" 2>/dev/null; do
        put heartbeat "$(now)" 2>/dev/null
        [ $((count % index_every)) -ne 0 ] || echo "$(now) $(bytes_of "$log")" >>"$index" 2>/dev/null
        count=$((count + 1))
        sleep "$heartbeat_seconds"
    done
}

# Where the machine is lost on which they met, torchrun goes on asking its store for minutes after its own workers have
# failed. It gets some seconds to end by itself.
end_stuck_starter() {
    trap - TERM INT
    until workers_have_failed; do
        kill -0 "$1" 2>/dev/null || exit 0
        sleep "$heartbeat_seconds"
    done
    sleep "$stuck_seconds"
    kill -KILL "$1" 2>/dev/null
}

workers_have_failed() {
    [ -f "$status/first_failure" ] || return 1
    for file in "$status"/workers/*.pid; do
        [ -f "${file%.pid}.exit" ] || return 1
    done
}

await_starter() {
    code=127
    until ! kill -0 "$starter" 2>/dev/null; do note_code_of "$starter"; done
    note_code_of "$starter"
}

# A starter that was killed leaves workers that nobody looks after: let them save, then end them.
end_stragglers() {
    [ -n "$(members)" ] || return 0
    say "the starter ended before its workers; ending them"
    ask_workers_to_end
    wait_until_gone 120 || kill_members
    wait_until_gone 10
}

# The run's exit code: the first failure's, else 75 where a worker saved and stopped, else the starter's.
verdict() {
    if [ -f "$status/first_failure" ]; then
        get first_failure
    elif grep -qx 75 "$status"/workers/*.exit 2>/dev/null; then
        echo 75
    elif [ "$1" -ne 0 ] && all_workers_succeeded; then
        echo 0
    else
        echo "$1"
    fi
}

all_workers_succeeded() {
    nodes=$(setting GPTOPS_NODES)
    succeeded=$(cat "$status"/workers/*.exit 2>/dev/null | grep -cx 0)
    [ $((succeeded * ${nodes:-1})) -eq "$(setting GPTOPS_EXPECTED_PROCESSES)" ]
}

# Where nothing was trained, what the starter said is the only explanation there is.
quote_starter() {
    if [ "$1" -ne 0 ] && [ -z "$(get stop_requested)" ] && ! ls "$status"/workers/*.pid >/dev/null 2>&1; then
        echo "run.sh: the starter ended with code $1 before any training process began; it said:"
        tail -n 30 "$logs/starter.log"
    fi
}

finish() {
    rm -f "$status/reserve"
    until put exit_code "$1" && put ended_at "$(now)" && put phase ended; do
        [ -d "$status" ] || return 0 # the run was deleted
        nap 5 # the disk is full: there will be room when checkpoints have been brought home
    done
}

worker() {
    exec >>"$log" 2>&1 </dev/null
    rank=${RANK:-0}
    number "$rank" || rank=0
    trap : TERM INT # a starter signals the whole group of its worker; this shell stays to tell how the training ended
    # shellcheck disable=SC2119 # the words it executes are its own
    (exec_training) &
    child=$!
    put "workers/$rank.pgid" "$$"
    put "workers/$rank.pid" "$child $(born "$child")"
    put phase running
    [ ! -f "$status/stop_requested" ] || ask_workers_to_end
    code=127
    until ! kill -0 "$child" 2>/dev/null; do note_code_of "$child"; done
    note_code_of "$child"
    tell_end_of_worker
}

# `wait` may have been cut short by a signal, and says 127 for a process whose code it has told before.
note_code_of() {
    wait "$1" 2>/dev/null
    set -- $?
    [ "$1" -eq 127 ] || code=$1
}

# shellcheck disable=SC2120
exec_training() {
    trap - TERM INT
    cd "$root/code" || exit 69
    load_environment
    eval "set -- $GPTOPS_COMMAND"
    exec "$@"
}

tell_end_of_worker() {
    case $code in 0 | 75) ;; *) rm -f "$status/reserve" ;; esac # the disk may be full, and be the reason
    put "workers/$rank.exit" "$code"
    case $code in 0 | 75) exit 0 ;; esac
    if [ -f "$status/stop_requested" ]; then
        say "process $rank ended without saving when it was asked to stop (code $code)"
    elif [ "$code" -eq 137 ]; then
        say "process $rank was killed (SIGKILL); the usual reason is that the machine ran out of memory"
    elif [ "$code" -gt 128 ]; then
        say "process $rank was ended by signal $((code - 128))"
    fi
    ln "$status/workers/$rank.exit" "$status/first_failure" 2>/dev/null # succeeds for the first alone
    exit "$code"
}

# --- stop --------------------------------------------------------------------------------------------------------------

# SIGTERM, once, to each training process; one that starts later sees stop_requested.
ask_workers_to_end() {
    for file in "$status"/workers/*.pid; do
        { IFS= read -r pair <"$file"; } 2>/dev/null || continue
        if lives "$pair" && mkdir "${file%.pid}.asked" 2>/dev/null; then
            kill -TERM "${pair% *}" 2>/dev/null
        fi
    done
}

kill_members() { for pid in $(members); do kill -KILL "$pid" 2>/dev/null; done; }

# Until no process of the run is left, at most $1 seconds.
wait_until_gone() {
    deadline=$(($(uptime_seconds) + $1))
    while [ -n "$(members)" ]; do
        [ "$(uptime_seconds)" -lt "$deadline" ] || return 1
        nap 0.2
    done
}

stop() {
    grace=${1:-300}
    number "$grace" || usage
    if [ "$(last_attempt)" -eq 0 ] || [ "$(get phase)" = ended ] && [ -z "$(members)" ]; then
        show_status
        return 0
    fi
    [ -n "$(get stop_requested)" ] || put stop_requested "$(now)"
    ask_workers_to_end
    wait_until_gone "$grace" || kill_members
    wait_until_gone 10
    await_end_of_supervisor
    show_status
    [ -z "$(members)" ] && ! supervisor_lives || return 70
}

# The supervisor writes the last facts; where it died before, they are written here.
await_end_of_supervisor() {
    deadline=$(($(uptime_seconds) + 10))
    while supervisor_lives && [ "$(uptime_seconds)" -lt "$deadline" ]; do nap 0.1; done
    [ "$(get phase)" = ended ] || supervisor_lives || finish "$(verdict 137)"
}

# --- what is true now --------------------------------------------------------------------------------------------------

bytes_of() { if [ -f "$1" ]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

show_status() {
    alive=no
    processes=$(members | wc -l | tr -d ' ')
    supervisor=no
    if supervisor_lives; then supervisor=yes; fi
    if [ "$processes" -gt 0 ] || { [ $supervisor = yes ] && [ "$(get phase)" != ended ]; }; then alive=yes; fi
    [ $alive = yes ] || settle
    for fact_name in phase attempt exit_code started_at ended_at stop_requested pgid; do
        echo "$fact_name=$(get "$fact_name")"
    done
    pid=$(get pid)
    echo "pid=${pid% *}"
    echo "alive=$alive"
    echo "supervisor=$supervisor"
    echo "processes=$processes"
    heartbeat=$(get heartbeat)
    if number "$heartbeat"; then echo "heartbeat_age=$(($(now) - heartbeat))"; fi
    echo "log_bytes=$(bytes_of "$log")"
    echo "step=$(newest_step)"
    echo "checkpoint=$(newest_checkpoint)"
    scheduler_facts
    echo "now=$(now)"
    echo "end=yes"
}

scheduler_facts() { :; } # of a run whose machines a scheduler has

# A supervisor that was killed could not tell how the run ended, but its workers did.
settle() {
    case $(get phase) in starting | running) ;; *) return 0 ;; esac
    [ $supervisor = yes ] || ! ls "$status"/workers/*.exit >/dev/null 2>&1 || finish "$(verdict 137)"
}

newest_step() {
    tail -n 2 "$root/metrics.jsonl" 2>/dev/null | sed -n 's/.*"step": *\([0-9][0-9]*\)[,}].*/\1/p' | tail -n 1
}

newest_checkpoint() {
    newest=
    for manifest in "$root"/checkpoints/step_*/MANIFEST.json; do
        folder=${manifest%/*}
        folder=${folder##*/step_}
        if number "$folder" && [ -f "$manifest" ]; then newest=$folder; fi
    done
    echo "$newest"
}

# --- the log -----------------------------------------------------------------------------------------------------------

send_log() {
    number "${1:-}" || usage
    offset=$1
    [ "$(bytes_of "$log")" -ge "$offset" ] || return 66
    if [ "${2:-}" != -f ]; then
        send_new
        return
    fi
    # A client that dies closes our stdin, long before a quiet log would make us write to a closed stdout.
    exec 3<&0
    { cat <&3; kill "$$"; } >/dev/null 2>&1 &
    listener=$!
    until
        run_is_over=yes
        ! is_alive || run_is_over=no
        send_new || return
        [ $run_is_over = yes ] # asked before the last bytes were sent, so they were the last
    do
        nap 0.2
    done
    kill "$listener" 2>/dev/null
    return 0
}

is_alive() { [ "$(get phase)" != ended ] && { supervisor_lives || [ -n "$(members)" ]; }; }

send_new() {
    size=$(bytes_of "$log")
    [ "$size" -ge "$offset" ] || return 66
    [ "$size" -gt "$offset" ] || return 0
    tail -c "+$((offset + 1))" "$log" 2>/dev/null | head -c "$((size - offset))" || return 74
    offset=$size
}

# The last entry of the index that is old enough; 0 where the log is younger.
since() {
    number "${1:-}" || usage
    [ -f "$index" ] || { echo 0; return; }
    awk -v at="$(($(now) - $1))" 'BEGIN { found = 0 } $1 <= at { found = $2 } END { print found }' "$index"
}

usage() {
    say "usage: run.sh start [ATTEMPT] | supervise ATTEMPT | status | log OFFSET [-f] | since SECONDS | stop [SECONDS]"
    exit 64
}

if [ ! -f "$root/run.env" ]; then
    say "there is no run.env beside this script"
    exit 69
fi
verb=${1:-}
[ $# -eq 0 ] || shift
boot=$(boot_now)
run_id=$(setting GPTOPS_RUN_ID)
# The folder is part of it, as a number that holds no newline: two hosts on one machine may each have a run of this name.
mark=/$run_id/$(printf '%s' "$root" | cksum | cut -d ' ' -f 1)/
mkdir -p "$status" "$logs" || exit 69
# Where Slurm has the machines, its part lies beside this and replaces how a run is started, seen and ended.
# shellcheck disable=SC1091
[ ! -f "$root/slurm.sh" ] || . "$root/slurm.sh"
case $verb in
start) start "$@" ;;
supervise) supervise "$@" ;;
worker) worker ;;
status) show_status ;;
log) send_log "$@" ;;
since) since "$@" ;;
stop) stop "$@" ;;
*) usage ;;
esac
