# shellcheck shell=bash
# What the scripts say: progress lines with elapsed seconds and one-line errors, both on stderr.
# A script that starts another one hands its clock down, so all lines of a run count from the same moment.

RED='' GREEN='' DIM='' BOLD='' PLAIN=''
if [ -t 1 ] && [ -t 2 ]; then
  # shellcheck disable=SC2034 # GREEN is for the scripts that take this one in
  RED=$'\033[31m' GREEN=$'\033[32m' DIM=$'\033[2m' BOLD=$'\033[1m' PLAIN=$'\033[0m'
fi

now_ms() {
  if [ -n "${EPOCHREALTIME-}" ]; then
    local microseconds=${EPOCHREALTIME/[.,]/}
    echo $((microseconds / 1000))
  else # bash before 5 knows whole seconds only
    echo $(($(date +%s) * 1000))
  fi
}

: "${TIDEMILL_CLOCK_MS:=$(now_ms)}"
export TIDEMILL_CLOCK_MS

say() {
  local elapsed=$(($(now_ms) - TIDEMILL_CLOCK_MS))
  printf '%s[%3d.%d s]%s %s\n' "$DIM" $((elapsed / 1000)) $((elapsed % 1000 / 100)) "$PLAIN" "$*" >&2
}

headline() { say "$BOLD$*$PLAIN"; }

complain() { printf '%s%s: %s%s\n' "$RED" "$(basename "$0")" "$*" "$PLAIN" >&2; }

fail() {
  complain "$@"
  exit 1
}

end_of_log() { # FILE
  printf '%s--- the end of %s%s\n' "$DIM" "$1" "$PLAIN" >&2
  tail -n 25 "$1" >&2 || true
  printf '%s---%s\n' "$DIM" "$PLAIN" >&2
}
