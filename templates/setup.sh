#!/bin/sh
# setup.sh: makes the machine ready to train, once for each set of inputs. It lies in gptops/setups/<hash of its inputs>/.
#
#   sh setup.sh
#
# Beside it:  setup.env         GPTOPS_GPUS, GPTOPS_CODE: NAME='value' lines for sh
#             requirements.txt  what the trainer needs       extra.txt  what the job adds
#             constraints.txt   one version of each          shell.sh   the job's own lines, run in the uploaded code
#             image.py          looks at Python, torch and the driver
# Makes:      gptops/venvs/<the same hash>/, an environment that sees the image's packages and holds only what it lacked.
#             Its file .gptops-ready is written last: without it the environment does not count, and is made anew.
#
# The image's torch is reused whenever it is new enough: it is large, and it was built for the image's CUDA.
# Output goes to stdout and to gptops/logs/setup.log. Where the machine cannot do, the last lines are error:, why: and hint:.
#
# Exit codes: 0 ready, 69 the machine lacks something, else what failed.
set -eu
unset CDPATH

here=$(cd "$(dirname "$0")" && pwd -P && echo .)
here=${here%??}
root=${here%/setups/*}
key=${here##*/}
venv=$root/venvs/$key
ready=$venv/.gptops-ready

say() { printf 'setup: %s\n' "$*"; }
unfit() {
    printf 'error: %s\nwhy: %s\nhint: %s\n' "$1" "$2" "$3"
    exit 69
}

# shellcheck disable=SC1091
. "$here/setup.env"

# Nothing to do: the environment is whole, its interpreter still starts, and the GPUs were looked at if any are wanted.
is_ready() {
    [ -f "$ready" ] && "$venv/bin/python" -c '' 2>/dev/null && have_rsync &&
        { [ "${GPTOPS_GPUS:-0}" -eq 0 ] || grep -qx 'cuda=yes' "$ready"; }
}

# --- programs ----------------------------------------------------------------------------------------------------------

have_rsync() { command -v rsync >/dev/null 2>&1; }

install_with_apt() {
    command -v apt-get >/dev/null 2>&1 || return 1
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null || return 1
        sudo='sudo -n'
    fi
    say "installing $* with apt-get"
    # shellcheck disable=SC2086 # two words, or none
    $sudo env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' sh "$@"
}

ensure_rsync() {
    have_rsync || install_with_apt rsync || unfit "rsync is not installed on the host" \
        "it could not be installed: that needs root and apt-get" "apt-get update && apt-get install -y rsync"
}

# The image's Python: the first that has torch, else the first that is new enough. GPTOPS_PYTHON of the host's own
# environment says another.
find_python() {
    python=
    pythons='python3 python /opt/conda/bin/python3 /venv/main/bin/python3 /usr/local/bin/python3 /usr/bin/python3'
    for candidate in ${GPTOPS_PYTHON:-$pythons}; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        seen=$("$candidate" "$here/image.py" describe 2>/dev/null) || continue
        case $seen in
        *torch=none*) [ -n "$python" ] || python=$candidate ;;
        *)
            python=$candidate
            break
            ;;
        esac
    done
    [ -n "$python" ] || unfit "the host has no Python 3.10 or newer" \
        "looked for ${GPTOPS_PYTHON:-python3 and python on the PATH, in /opt/conda, /venv/main and /usr}" "choose an image with Python, or apt-get install -y python3"
    say "using $python: $("$python" "$here/image.py" describe)"
}

# --- the environment ---------------------------------------------------------------------------------------------------

make_environment() {
    rm -rf "$venv"
    mkdir -p "$root/venvs"
    "$python" -m venv --system-site-packages --without-pip "$venv" || unfit "no virtual environment could be made on the host" \
        "$python -m venv failed, see above" "apt-get install -y python3-venv"
    "$python" "$here/image.py" share "$venv"
}

install_packages() {
    missing=$("$venv/bin/python" "$here/image.py" plan "$here")
    if [ -z "$missing" ]; then
        say "the image has everything"
        return 0
    fi
    # shellcheck disable=SC2086 # one word each
    say "missing:" $missing
    if command -v uv >/dev/null 2>&1; then
        # uv does not see the image's packages: the overrides keep it from bringing another torch.
        uv pip install --quiet --python "$venv/bin/python" -r "$here/requirements.txt" -r "$here/extra.txt" \
            -c "$here/constraints.image.txt" --override "$here/overrides.image.txt"
    else
        ensure_pip
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off \
            -r "$here/requirements.txt" -r "$here/extra.txt" -c "$here/constraints.image.txt"
    fi
}

ensure_pip() {
    "$venv/bin/python" -c 'import pip' 2>/dev/null && return 0
    "$venv/bin/python" -m ensurepip >/dev/null 2>&1 && return 0
    install_with_apt python3-pip python3-venv && "$venv/bin/python" -c 'import pip' 2>/dev/null && return 0
    unfit "the host has neither uv nor pip" "packages are missing, and nothing there can install them" "apt-get install -y python3-pip"
}

check_cuda() {
    "$venv/bin/python" "$here/image.py" cuda "${GPTOPS_GPUS:-0}" >"$here/cuda.seen" || {
        cat "$here/cuda.seen"
        exit 69
    }
}

run_shell_lines() {
    [ -s "$here/shell.sh" ] || return 0
    say "running the job's own lines"
    (
        cd "$root/$GPTOPS_CODE"
        VIRTUAL_ENV=$venv
        PATH=$venv/bin:$PATH
        export VIRTUAL_ENV PATH
        exec sh -e "$here/shell.sh" </dev/null
    )
}

mark_ready() {
    { "$venv/bin/python" "$here/image.py" describe | tr ' ' '\n' && cat "$here/cuda.seen"; } >"$ready.tmp"
    mv -f "$ready.tmp" "$ready"
}

set_up() {
    if is_ready; then # another setup was faster
        say "ready already"
        return 0
    fi
    if ! [ -f "$ready" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        make_environment
        install_packages
        check_cuda
        run_shell_lines
    else
        check_cuda
    fi
    mark_ready
    say "ready: $venv"
}

# --- one at a time, and into the log -----------------------------------------------------------------------------------

logged() {
    mkdir -p "$root/logs"
    rm -f "$here/exit_code.$$"
    {
        set +e
        (
            set -e
            "$@"
        )
        echo $? >"$here/exit_code.$$"
    } 2>&1 | tee -a "$root/logs/setup.log"
    code=$(cat "$here/exit_code.$$" 2>/dev/null || echo 1)
    rm -f "$here/exit_code.$$"
    return "$code"
}

begin() {
    date '+setup: %Y-%m-%d %H:%M:%S %z'
    ensure_rsync
    find_python
    # The kernel frees the lock when the last of us is gone, however that came about.
    exec "$python" "$here/image.py" locked "$root/setup.lock" env GPTOPS_PYTHON="$python" sh "$here/setup.sh" build
}

case ${1-} in
'')
    if is_ready; then
        say "unchanged"
        exit 0
    fi
    logged begin
    ;;
build)
    python=$GPTOPS_PYTHON
    set_up
    ;;
*)
    echo "usage: sh setup.sh" >&2
    exit 64
    ;;
esac
