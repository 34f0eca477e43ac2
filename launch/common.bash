# Sourced by the scripts in this folder. Removes --dry-run from the arguments, at any position, and
# sets `dry_run` to true or false. `print_command COMMAND …` prints a command, quoted for the shell.
# `refuse` and the `expect_…` functions report a wrong call: one line on stderr, exit status 2.
# shellcheck shell=bash disable=SC2034

refuse() { # refuse MESSAGE: prints it and exits with status 2
    echo "${0##*/}: $*" >&2
    exit 2
}

dry_run=false
arguments=()
for argument in "$@"; do
    case "$argument" in
        --dry-run) dry_run=true ;;
        --dry*) refuse "$argument: no such flag; did you mean --dry-run?" ;;
        *) arguments+=("$argument") ;;
    esac
done
set -- "${arguments[@]}"

print_command() {
    printf '%q ' "$@"
    echo
}

expect_run() { # expect_run ARGUMENT …: checks for --config and --workdir
    local flag words
    words=$(printf '%s\n' "$@")
    for flag in config=FILE workdir=DIR; do
        grep -qxE -e "--?${flag%=*}(=.+)?" <<<"$words" ||
            refuse "--${flag%=*} is missing; expected --$flag"
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

expect_count() { # expect_count VARIABLE: checks that its value is a whole number
    [[ "${!1}" =~ ^(0|[1-9][0-9]{0,4})$ ]] || refuse "$1=${!1}: expected a whole number, such as 2"
}
