#!/bin/bash
# Asks the service of this container how it is, with nothing but bash: the image holds no curl.
case ${1:-} in
  -h | --help | '')
    cat <<'EOT'
Usage: probe PORT [live|ready|useful]

Prints what the service on this PORT says of itself; exit code 0 if all is well.

  live     /health/live: all of its parts give signs of life
  ready    /health/ready: it does its work (the default)
  useful   ready, or a standby of cdc-ingest, which waits for the slot that the other one holds
EOT
    exit 0
    ;;
esac
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
question=${2:-ready}
printf 'GET /health/%s HTTP/1.0\r\n\r\n' "${question/useful/ready}" >&3
IFS= read -r -t 5 status <&3
while IFS= read -r -t 5 line <&3 && [ "$line" != $'\r' ]; do :; done
IFS= read -r -t 5 answer <&3 || [ -n "$answer" ] || exit 1
echo "$answer"
case $status in *' 200 '*) exit 0 ;; esac
# The words are those of services/cdc-ingest/src/slot.rs.
case $question/$answer in useful/*'slot '*', which is in use by '*) exit 0 ;; esac
exit 1
