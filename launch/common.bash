# Sourced by the scripts here: `dry_run` is whether --dry-run is among the arguments, wherever it
# stands; the others stay. `shown COMMAND …` prints a command as it would be typed; `refuse` and
# `expect_…` end the script with one line and status 2 where it was called wrongly.
# shellcheck shell=bash disable=SC2034

refuse() { # what was expected
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

shown() {
    printf '%q ' "$@"
    echo
}

expect_run() { # the flags that kstore run and kstore sweep demand, among the arguments
    local flag given
    given=$(printf '%s\n' "$@")
    for flag in config=FILE workdir=DIR; do
        grep -qxE -e "--?${flag%=*}(=.+)?" <<<"$given" || refuse "expected --$flag"
    done
}

expect_size() { # --tasks=N or --nodes=N, which were given as these two
    if [[ ! "$1$2" =~ ^[1-9][0-9]{0,4}$ || (-n "$1" && -n "$2") ]]; then
        refuse "expected one of --tasks=N and --nodes=N, with N from 1 to 99999"
    fi
}

expect_count() { # expect_count VARIABLE: that it is a whole number
    [[ "${!1}" =~ ^(0|[1-9][0-9]{0,4})$ ]] || refuse "$1=${!1}: expected a whole number, such as 2"
}
