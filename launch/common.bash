# Sourced by the scripts in this folder. It reads the arguments that all scripts share and removes
# them: --help prints the first lines of the script, --dry-run sets `dry_run` to true, and each flag
# named in `own_flags`, such as "tasks gpus", sets the variable of its name.
# `refuse` and the `expect_…` functions report a wrong call: one line on stderr, exit status 2.
# shellcheck shell=bash disable=SC2034

refuse() { # refuse MESSAGE: prints it and exits with status 2
    echo "${0##*/}: $*" >&2
    exit 2
}

dry_run=false
arguments=()
for argument in "$@"; do
    flag="${argument%%=*}"
    case "$argument" in
        -h | --help)
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        --dry-run) dry_run=true ;;
        --dry*) refuse "$argument: no such flag; did you mean --dry-run?" ;;
        --*)
            if [[ " ${own_flags:-} " != *" ${flag#--} "* ]]; then
                arguments+=("$argument")
            elif [[ "$argument" != *=?* ]]; then
                refuse "$flag has no value; expected $flag=N, as one word"
            else
                printf -v "${flag#--}" %s "${argument#*=}"
            fi
            ;;
        *) arguments+=("$argument") ;;
    esac
done
set -- "${arguments[@]}"

print_command() { # print_command COMMAND …: quoted for the shell
    printf '%q ' "$@"
    echo
}

expect_run() { # expect_run COMMAND FLAG …: refuses flags and fields that `kstore COMMAND` refuses
    local flag words kstore="${KSTORE:-kstore}" status=0
    words=$(printf '%s\n' "$@")
    for flag in config=FILE workdir=DIR; do
        grep -qxE -e "--?${flag%=*}(=.+)?" <<<"$words" ||
            refuse "--${flag%=*} is missing; expected --$flag"
    done
    if command -v "$kstore" >/dev/null; then
        "$kstore" "$@" --check || status=$?
        if ((status)); then exit "$status"; fi
    else
        echo "${0##*/}: note: $kstore: not found in PATH, so its flags are not checked here" >&2
    fi
}

expect_free() { # expect_free NAMES ARGUMENT …: refuses the flags NAMES, which the script sets
    local argument names="$1"
    shift
    for argument in "$@"; do
        if [[ "$argument" =~ ^--?($names)(=|$) ]]; then
            refuse "$argument: ${0##*/} sets --${BASH_REMATCH[1]} itself"
        fi
    done
}

expect_size() { # expect_size TASKS NODES: checks that one is empty and the other a number
    if [[ -z "$1$2" ]]; then
        refuse "--tasks and --nodes are missing; expected --tasks=N or --nodes=N"
    elif [[ -n "$1" && -n "$2" ]]; then
        refuse "--tasks=$1 and --nodes=$2: expected only one of the two"
    elif [[ ! "$1$2" =~ ^[1-9][0-9]{0,4}$ ]]; then
        refuse "--${1:+tasks}${2:+nodes}=$1$2: expected a whole number from 1 to 99999"
    fi
}

expect_count() { # expect_count NAME VALUE: checks that the value is a whole number
    [[ "$2" =~ ^(0|[1-9][0-9]{0,4})$ ]] || refuse "$1=$2: expected a whole number, such as 2"
}

running=() # processes that SIGTERM and Ctrl-C stop; background processes ignore SIGINT
stopped=false
stop_running() {
    stopped=true
    kill -TERM "${running[@]}" 2>/dev/null || true
}

wait_for_running() { # returns the highest status; of a process stopped before it could begin, 75
    local process status worst=0
    for process in "${running[@]}"; do
        while :; do
            status=0
            wait "$process" || status=$?
            kill -0 "$process" 2>/dev/null || break # otherwise a signal interrupted wait
        done
        if "$stopped" && ((status == 143)); then status=75; fi
        if ((status > worst)); then worst=$status; fi
    done
    running=()
    return "$worst"
}
