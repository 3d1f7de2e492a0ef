# shellcheck shell=bash
# Where data, logs and downloads are. Wants CHECKOUT.
# shellcheck disable=SC2034 # for the scripts that take this one in

# One spelling for each folder, whether or not it exists yet: a process is known by the path of its data.
absolute() {
  if [ -d "$1" ]; then (cd "$1" && pwd -P); else echo "$(absolute "$(dirname "$1")")/$(basename "$1")"; fi
}
STATE=$(absolute "${TIDEMILL_STATE:-$CHECKOUT/.tidemill}")
DOWNLOADS=$(absolute "${TIDEMILL_DOWNLOADS:-$CHECKOUT/.tidemill/downloads}")
LOG_FOLDER=$STATE/log
