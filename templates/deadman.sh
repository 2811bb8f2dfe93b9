#!/bin/sh
# deadman.sh: ends this machine's bill by itself, should nobody else. It lies in gptops/deadman/ on the machine.
#
#   deadman.sh arm           take the plan on stdin (NAME=value lines), see to it that somebody watches, tell the status
#   deadman.sh limit RUN S   stop that run in S seconds, with time to save; nothing else ends for it
#   deadman.sh visit         somebody came: count idleness anew, and a renewable deadline too; tell the status
#   deadman.sh status        what is true now, as key=value lines, `end=yes` last
#   deadman.sh start         see to it that somebody watches, after a restart for example
#   deadman.sh watch         (inside) watch, in a session of its own
#
# The plan:  kind        vast, runpod: end the bill with the key that the provider put into this container
#                        local: end every process of this host   none: end nothing; the runs are stopped all the same
#            api         base URL of the provider
#            deadline    seconds from now until every run is stopped, with time to save; 0: never
#            final       seconds from now until the bill ends, whatever is not yet at home
#            idle        seconds without a run and without anybody, after which it ends too; 0: never
#            save        seconds a run gets to save
#            pulse       seconds between two looks
#            renewable   yes: each visit sets deadline and final anew
#
#   armed ─ deadline, or idle ─▶ stopping ─ no run lives ─▶ saving ─ all checkpoints at home, or final ─▶ ending ─▶ …
#
# A checkpoint is at home when `sync` has written its manifest's hash into the run's status/home/. `ending` asks the
# provider again and again, for as long as this machine lives: there is no one else to ask.
#
# Time is this machine's uptime, which no correction of the clock moves. It is added up in a file, so it goes on after a
# restart; over a reboot, by the clock or by the new uptime, whichever says more. What could not be written to a full
# disk is kept in memory: the switch fires without a disk.
#
# Exit codes: 0 done, 64 wrong use, 69 the machine lacks something.
set -u
unset CDPATH

proc=${GPTOPS_PROC:-/proc}
ticks=${GPTOPS_SWITCH_CLOCK:-/proc} # where uptime is read
terminals=${GPTOPS_SWITCH_TERMINALS:-/dev/pts}
first_environ=${GPTOPS_SWITCH_ENVIRON:-/proc/1/environ}
etc_environment=${GPTOPS_SWITCH_ETC:-/etc/environment}

# Pauses between two tries to end the bill: doubled each time, so that a provider in trouble is not pressed.
first_pause=5
longest_pause=300

say() { printf '%s deadman.sh: %s\n' "$(date -u '+%Y-%m-%dT%H:%M:%SZ' 2>/dev/null)" "$*" >&2; }
nap() { sleep "$1" 2>/dev/null || sleep 1; }
number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }

# --- facts: state/NAME, whole or absent --------------------------------------------------------------------------------

put() { { printf '%s\n' "$2" >"$state/$1.tmp$$" && mv -f "$state/$1.tmp$$" "$state/$1"; } 2>/dev/null; }

# Always one line, "" where there is none.
get() {
    fact=
    { [ ! -f "$state/$1" ] || IFS= read -r fact <"$state/$1" || :; } 2>/dev/null
    printf '%s\n' "$fact"
}

# One value of the plan, as it lies there or as $2 says.
planned() {
    if [ $# -eq 2 ]; then printf '%s\n' "$2"; else cat "$state/plan" 2>/dev/null; fi | sed -n "s/^$1=//p" | tail -n 1
}

# --- time --------------------------------------------------------------------------------------------------------------

uptime_now() {
    up=
    { IFS=' .' read -r up _ <"$ticks/uptime" || :; } 2>/dev/null
    if number "$up"; then echo "$up"; else wall_now; fi
}
boot_now() { cat "$ticks/sys/kernel/random/boot_id" 2>/dev/null || sysctl -n kern.bootsessionuuid 2>/dev/null || echo unknown; }
wall_now() { cat "$ticks/wall" 2>/dev/null || date +%s; }

# `clock`: seconds that this switch has been there, from state/clock on.
resume_clock() {
    # shellcheck disable=SC2046 # four words, written by us
    set -- $(get clock)
    clock=0 last_boot=$(boot_now) last_up=$(uptime_now) last_wall=$(wall_now)
    if [ $# -eq 4 ] && number "$1" && number "$3" && number "$4"; then clock=$1 last_boot=$2 last_up=$3 last_wall=$4; fi
    advance_clock
}

advance_clock() {
    boot=$(boot_now) up=$(uptime_now) wall=$(wall_now)
    passed=$((up - last_up))
    if [ "$boot" != "$last_boot" ] || [ "$passed" -lt 0 ]; then
        passed=$((wall - last_wall))
        [ "$passed" -ge "$up" ] || passed=$up
    fi
    clock=$((clock + passed)) last_boot=$boot last_up=$up last_wall=$wall
}

keep_clock() { put clock "$clock $last_boot $last_up $last_wall"; }

# --- processes ---------------------------------------------------------------------------------------------------------

# When process $1 started, what makes a pid unique. Fails where there is no such process, or only its zombie.
born() {
    if [ -d "$proc/self" ]; then
        { IFS= read -r facts <"$proc/$1/stat"; } 2>/dev/null || return 1
        # shellcheck disable=SC2086 # the words after the name, which may hold anything, are plain
        set -- ${facts##*) }
        case $1 in Z | X) return 1 ;; esac
        echo "${20}"
    else
        ps -o lstart= -p "$1" 2>/dev/null | tr -s ' :' '__' | grep .
    fi
}

# Is "PID BORN" a living process?
lives() {
    # shellcheck disable=SC2086 # two words, written by us
    set -- $1
    [ $# -eq 2 ] && [ "$(born "$1")" = "$2" ]
}

# Replace this (sub)shell by a command that leads a session of its own.
exec_in_own_session() {
    if command -v setsid >/dev/null 2>&1; then exec setsid "$@"; fi
    for python in python3 python; do
        if command -v "$python" >/dev/null 2>&1; then
            exec "$python" -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
        fi
    done
    say "this machine has neither setsid nor python3: the switch could not outlive its connection"
    exit 69
}

# The pids of this machine's processes whose file $1 in /proc matches $2: on a `local` host, of that host's alone.
processes_with() {
    grep -al -e "$2" "$proc"/[0-9]*/"$1" 2>/dev/null | while IFS= read -r found; do
        pid=${found#"$proc"/}
        pid=${pid%%/*}
        if [ -z "${GPTOPS_INSTANCE-}" ] || grep -aqF "GPTOPS_INSTANCE=$GPTOPS_INSTANCE" "$proc/$pid/environ" 2>/dev/null; then
            echo "$pid"
        fi
    done
}

# --- arm, limit, visit -------------------------------------------------------------------------------------------------

arm() {
    cat >"$state/plan.tmp$$" || exit 69
    resume_clock
    {
        echo "serial=$clock.$$"
        for name in kind api idle save pulse renewable; do sed -n "s/^$name=/&/p" "$state/plan.tmp$$"; done
        for name in deadline final; do
            seconds=$(sed -n "s/^$name=//p" "$state/plan.tmp$$")
            number "$seconds" || { say "the plan has no $name"; exit 64; }
            echo "${name}_seconds=$seconds"
            if [ "$seconds" -eq 0 ]; then echo "$name=0"; else echo "$name=$((clock + seconds))"; fi
        done
    } >"$state/plan.new$$" || exit 64
    rm -f "$state/plan.tmp$$"
    mv -f "$state/plan.new$$" "$state/plan" || exit 69
    : >"$state/visited"
    [ "$(get phase)" = ending ] || put phase armed
    [ -n "$(get clock)" ] || keep_clock
    start
    hook_into_restarts
    show_status
}

limit() {
    number "${2:-}" || usage
    case $1 in '' | */* | .*) usage ;; esac
    resume_clock
    mkdir -p "$state/limits" && put "limits/$1" "$((clock + $2))" || exit 69
    [ -n "$(get clock)" ] || keep_clock
    start
    show_status
}

visit() {
    : >"$state/visited" || exit 69
    if [ "$(planned renewable)" = yes ] && [ "$(get phase)" = armed ]; then renew; fi
    if [ -n "$(get phase)" ] && [ "$(get phase)" != over ]; then start; fi
    show_status
}

# The deadlines of the plan once more, from now on.
renew() {
    resume_clock
    sed -n '/^deadline=/!{/^final=/!p;}' "$state/plan" >"$state/plan.new$$" || return 0
    for name in deadline final; do echo "$name=$((clock + $(planned "${name}_seconds")))" >>"$state/plan.new$$"; done
    mv -f "$state/plan.new$$" "$state/plan"
}

start() {
    if lives "$(get watcher)"; then return 0; fi
    (exec_in_own_session sh "$root/deadman.sh" watch </dev/null >>"$root/deadman.log" 2>&1) &
    tries=600
    until lives "$(get watcher)"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { say "the watcher did not start"; tail -n 3 "$root/deadman.log" >&2; exit 69; }
        nap 0.05
    done
}

# A container that restarts begins its providers' start scripts again; ours then goes on where it was.
hook_into_restarts() {
    case $(planned kind) in
    vast) hook=${GPTOPS_SWITCH_HOOK:-${HOME:-/root}/onstart.sh} ;; # root's, where Vast keeps it
    runpod)
        hook=${GPTOPS_SWITCH_HOOK:-/post_start.sh} # what /start.sh of their images runs last
        [ -n "${GPTOPS_SWITCH_HOOK-}" ] || [ -f /start.sh ] || return 0
        ;;
    *) return 0 ;;
    esac
    line="sh '$root/deadman.sh' start"
    if grep -qxF -e "$line" "$hook" 2>/dev/null; then return 0; fi
    { [ -s "$hook" ] || echo '#!/bin/bash' >>"$hook" && printf '%s\n' "$line" >>"$hook" && chmod +x "$hook"; } 2>/dev/null ||
        say "could not write $hook: after a restart of the container only the next visit starts this again"
}

# --- watch -------------------------------------------------------------------------------------------------------------

watch() {
    trap '' HUP
    { echo -1000 >/proc/$$/oom_score_adj; } 2>/dev/null # the last to be killed for want of memory
    cd / # so that no disk is held
    me="$$ $(born $$)"
    put watcher "$me"
    resume_clock
    last_visit=$(get last_visit)
    number "$last_visit" || last_visit=$clock
    seen_terminals=$(look_at_terminals)
    phase=$(get phase)
    why=$(get why)
    serial=$(planned serial)
    case $phase in '' | over) phase=armed ;; esac
    put phase "$phase"
    pause=$first_pause next_try=0 asked='' ask_again=0 limited=
    # Of two that were started at once the later one stays: its name is in the file.
    until other=$(get watcher) && [ "$other" != "$me" ] && lives "$other"; do
        advance_clock
        tick
        keep_clock
        [ "$phase" != over ] || return 0
        nap "$pulse"
    done
}

tick() {
    read_plan
    keep_limits
    case $phase in
    stopping) stop_runs ;;
    saving) await_home ;;
    ending) end_bill ;;
    *) look_around ;;
    esac
}

# What cannot be read stays as it was. Read at once: the next moment there may be another plan.
read_plan() {
    plan=$(cat "$state/plan" 2>/dev/null)
    for name in deadline final idle save; do
        value=$(planned $name "$plan")
        if number "$value"; then eval "$name=\$value"; else eval "$name=\${$name-0}"; fi
    done
    value=$(planned kind "$plan")
    kind=${value:-${kind-none}}
    value=$(planned api "$plan")
    api=${value:-${api-}}
    [ "$save" -gt 0 ] || save=300
    value=$(planned pulse "$plan")
    pulse=${GPTOPS_SWITCH_PULSE:-${value:-15}}
    # Armed again meanwhile; but what is being ended stays ended.
    value=$(planned serial "$plan")
    if [ -n "$value" ] && [ "$value" != "$serial" ]; then
        serial=$value
        [ "$phase" = ending ] || phase=armed asked=
    fi
}

enter() {
    phase=$1
    say "$2"
    put why "$why"
    put phase "$phase"
}

# shellcheck disable=SC2154 # read_plan sets what the plan names
look_around() {
    if somebody_is_here; then
        last_visit=$clock
        put last_visit "$last_visit"
    fi
    if [ "$deadline" -gt 0 ] && [ "$clock" -ge "$deadline" ]; then
        why=deadline
        enter stopping "the deadline has come: stopping the runs, with $save s to save"
    elif [ "$idle" -gt 0 ] && [ $((clock - last_visit)) -ge "$idle" ]; then
        why=idle
        enter stopping "nothing ran and nobody came for $((clock - last_visit)) s"
    elif [ "$deadline" -eq 0 ] && [ "$idle" -eq 0 ] && ! ls "$state"/limits/* >/dev/null 2>&1; then
        enter over "nothing is left to watch"
    fi
}

stop_runs() {
    living=$(living_runs)
    if [ -z "$living" ]; then
        enter saving "no run lives"
        await_home
    elif is_final; then
        enter ending "the last deadline has come, and these do not end: $living"
        end_bill
    elif [ "$asked" != "$living" ] || [ "$clock" -ge "$ask_again" ]; then
        asked=$living ask_again=$((clock + save + 60))
        for run in $living; do sh "$gptops/$run/run.sh" stop "$save" </dev/null >/dev/null 2>&1 & done
    fi
}

await_home() {
    living=$(living_runs)
    if [ "$why" = idle ] && somebody_is_here; then
        last_visit=$clock
        enter armed "somebody came"
    elif [ -n "$living" ]; then
        asked=
        enter stopping "another run was started after the deadline"
    else
        waiting=$(not_at_home)
        if [ -z "$waiting" ]; then
            enter ending "every checkpoint is at home: ending"
            end_bill
        elif is_final; then
            enter ending "the last deadline has come; not at home: $waiting"
            end_bill
        fi
    fi
}

# Idle machines wait for their checkpoints until the same last moment. Without any deadline they wait for ever.
# shellcheck disable=SC2154
is_final() { [ "$final" -gt 0 ] && [ "$clock" -ge "$final" ]; }

# --- runs and checkpoints ----------------------------------------------------------------------------------------------

# Names of runs, separated by spaces. They are made of letters, digits, dots and dashes.
living_runs() {
    for script in "$gptops"/*/run.sh; do
        folder=${script%/run.sh}
        if [ -d "$folder/status" ] && is_living "$folder"; then printf '%s ' "${folder##*/}"; fi
    done
}

has_ended() {
    recorded=
    { IFS= read -r recorded <"$1/status/phase"; } 2>/dev/null
    [ "$recorded" = ended ]
}

is_living() {
    if has_ended "$1"; then return 1; fi
    sh "$1/run.sh" status 2>/dev/null </dev/null | grep -qx 'alive=yes'
}

# Runs that have a time of their own: state/limits/RUN holds the moment.
keep_limits() {
    for file in "$state"/limits/*; do
        run=${file##*/}
        moment=$(get "limits/$run")
        number "$moment" || continue
        if ! is_living "$gptops/$run"; then
            # One that has not ended may just not have been started yet; nobody starts it a day later.
            if has_ended "$gptops/$run" || [ "$clock" -ge $((moment + 86400)) ]; then rm -f "$file"; fi
        elif [ "$clock" -ge "$moment" ]; then
            case " $limited " in *" $run "*) continue ;; esac
            limited="$limited $run"
            say "$run has used its time: stopping it, with $save s to save"
            sh "$gptops/$run/run.sh" stop "$save" </dev/null >/dev/null 2>&1 &
        fi
    done
}

# Whole checkpoints here that nobody has said to be verified at home.
not_at_home() {
    for manifest in "$gptops"/*/checkpoints/step_*/MANIFEST.json; do
        folder=${manifest%/MANIFEST.json}
        step=${folder##*/}
        if ! number "${step#step_}" || [ ! -f "$manifest" ]; then continue; fi
        run=${folder%/checkpoints/*}
        mark=
        { IFS= read -r mark <"$run/status/home/$step"; } 2>/dev/null
        hash=$(sha256_of "$manifest")
        if [ -z "$mark" ] || { [ -n "$hash" ] && [ "$mark" != "$hash" ]; }; then printf '%s/%s ' "${run##*/}" "$step"; fi
    done
}

# "" where the machine cannot tell.
sha256_of() {
    { sha256sum <"$1" || shasum -a 256 <"$1" || openssl dgst -sha256 -r <"$1"; } 2>/dev/null | { IFS=' ' read -r hash _ && echo "$hash"; }
}

# A visit, a key that was pressed, an upload, a set-up, a run.
somebody_is_here() {
    if rm "$state/visited" 2>/dev/null; then return 0; fi
    terminals_now=$(look_at_terminals)
    if [ "$terminals_now" != "$seen_terminals" ]; then
        seen_terminals=$terminals_now
        return 0
    fi
    # [s]: the pattern must not find itself
    [ -n "$(processes_with comm rsync)" ] || [ -n "$(processes_with cmdline 'gptops/setup[s]/')" ] || [ -n "$(living_runs)" ]
}

# When something was last typed into each: this changes, and nothing else is read from it.
# shellcheck disable=SC2010 # the listing is what is compared
look_at_terminals() { ls -lnu "$terminals" 2>/dev/null | grep -v ' ptmx$'; }

# --- the end of the bill -----------------------------------------------------------------------------------------------

end_bill() {
    case $kind in
    vast | runpod)
        [ "$clock" -ge "$next_try" ] || return 0
        next_try=$((clock + pause))
        pause=$((pause * 2))
        [ "$pause" -le "$longest_pause" ] || pause=$longest_pause
        ask_for_the_end
        ;;
    local)
        # The connections too; what has no mark, like sshd itself, is the provider's.
        for pid in $(processes_with environ "GPTOPS_INSTANCE=${GPTOPS_INSTANCE-none}"); do
            [ "$pid" -eq $$ ] || kill -KILL "$pid" 2>/dev/null
        done
        enter over "the host's processes are ended"
        ;;
    *) enter over "the runs are stopped; this machine cannot end its bill itself: gptops down" ;;
    esac
}

ask_for_the_end() {
    case $kind in
    vast) id=$(first_variable CONTAINER_ID) key=$(first_variable CONTAINER_API_KEY) path=/api/v0/instances ;;
    runpod) id=$(first_variable RUNPOD_POD_ID) key=$(first_variable RUNPOD_API_KEY) path=/pods ;;
    esac
    if [ -z "$id" ] || [ -z "$key" ]; then
        say "there is no id and key of this container in its first process or $etc_environment; still looking"
        return 0
    fi
    case $kind in vast) url=$api$path/$id/ ;; *) url=$api$path/$id ;; esac
    say "DELETE $url: $(http_delete "$url" 2>&1 | tail -c 300 | tr '\n' ' ')"
    if [ "$kind" = runpod ] && command -v runpodctl >/dev/null 2>&1; then
        # RunPod's images bring it, made to end its own pod; should the pod's key not do for the REST API, it may do here.
        say "runpodctl remove pod $id: $(RUNPOD_API_KEY=$key runpodctl remove pod "$id" 2>&1 | tail -c 300 | tr '\n' ' ')"
    fi
}

# The key goes by stdin: a command line can be read by everybody on the machine.
http_delete() {
    if command -v curl >/dev/null 2>&1; then
        printf 'header = "Authorization: Bearer %s"\n' "$key" |
            curl -K - -sS --max-time 60 -X DELETE -H 'Content-Type: application/json' --data '{}' -w ' (HTTP %{http_code})' "$1"
    elif command -v python3 >/dev/null 2>&1; then
        printf '%s\n' "$key" | python3 -I -c '
import sys, urllib.error, urllib.request
headers = {"Authorization": "Bearer " + sys.stdin.readline().strip(), "Content-Type": "application/json"}
request = urllib.request.Request(sys.argv[1], data=b"{}", method="DELETE", headers=headers)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(answer.read().decode(errors="replace"), "(HTTP %d)" % answer.getcode())' "$1"
    else
        echo "neither curl nor python3 is here"
    fi
}

# A variable of this container: SSH sessions do not get what its first process got.
first_variable() {
    eval "value=\${$1-}"
    [ -n "$value" ] || value=$(tr '\0' '\n' 2>/dev/null <"$first_environ" | sed -n "s/^$1=//p" | tail -n 1) 2>/dev/null
    [ -n "$value" ] || value=$(sed -n "s/^\(export \)\{0,1\}$1=//p" "$etc_environment" 2>/dev/null | tail -n 1)
    value=${value#[\"\']}
    printf '%s\n' "${value%[\"\']}"
}

can_end() {
    case $(planned kind) in
    vast) set -- CONTAINER_ID CONTAINER_API_KEY ;;
    runpod) set -- RUNPOD_POD_ID RUNPOD_API_KEY ;;
    local) return 0 ;;
    *) return 1 ;;
    esac
    [ -n "$(first_variable "$1")" ] && [ -n "$(first_variable "$2")" ] &&
        { command -v curl || command -v python3; } >/dev/null 2>&1
}

# --- what is true now --------------------------------------------------------------------------------------------------

show_status() {
    resume_clock
    for name in phase why; do echo "$name=$(get $name)"; done
    echo "kind=$(planned kind)"
    if lives "$(get watcher)"; then echo "watching=yes"; else echo "watching=no"; fi
    if can_end 2>/dev/null; then echo "can_end=yes"; else echo "can_end=no"; fi
    for name in deadline final; do
        moment=$(planned $name)
        if number "$moment" && [ "$moment" -gt 0 ]; then echo "${name}_left=$((moment > clock ? moment - clock : 0))"; fi
    done
    echo "idle=$(planned idle)"
    echo "end=yes"
}

usage() {
    say "usage: deadman.sh arm | limit RUN SECONDS | visit | status | start | watch"
    exit 64
}

main() {
    umask 077
    root=$(cd "$(dirname "$0")" && pwd -P && echo .) || exit 69
    root=${root%??}
    gptops=${root%/*}
    state=$root/state
    mkdir -p "$state" || exit 69
    verb=${1:-}
    [ $# -eq 0 ] || shift
    case $verb in
    arm) arm ;;
    limit) [ $# -eq 2 ] || usage; limit "$@" ;;
    visit) visit ;;
    status) show_status ;;
    start) start ;;
    watch) watch ;;
    *) usage ;;
    esac
    exit
}

# Last, and on one line: by now the shell has read all of this file, which may be replaced while it runs.
main "$@"
