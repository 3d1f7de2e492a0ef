#!/bin/bash
# Asks the service of this container how it is, with nothing but bash: the image holds no curl.
case ${1:-} in
  -h | --help | '')
    echo 'Usage: probe PORT [live|ready]     exit code 0 if /health/live or /health/ready (the default) says 200; prints what it says'
    exit 0
    ;;
esac
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET /health/%s HTTP/1.0\r\n\r\n' "${2:-ready}" >&3
IFS= read -r -t 5 status <&3
while IFS= read -r -t 5 line <&3 && [ "$line" != $'\r' ]; do :; done
while IFS= read -r -t 5 line <&3 || [ -n "$line" ]; do echo "$line"; line=''; done
[[ $status == *' 200 '* ]]
