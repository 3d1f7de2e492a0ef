# shellcheck shell=bash
# What the demo shows, on this machine and in containers. It wants console.sh, and lab, which runs tidemill-lab.

demonstrate() { # 0 if validation and measurement went well
  local status=0
  lab compare --timeout-s 60 || status=$?
  headline "orders in the source, rows in the sink"
  lab show || status=$?
  headline "validation"
  lab validate || status=$?
  headline "latency of single changes"
  lab latency --changes 200 --rate 5 || status=$?
  [ "$status" -eq 0 ] || complain "validation or measurement failed, see above"
  return "$status"
}

print_addresses() { # CONSOLE SOURCE SINK KAFKA LOGS
  cat <<EOF

  ${BOLD}Console${PLAIN}           $1
  ${BOLD}Source database${PLAIN}   $2
  ${BOLD}Sink database${PLAIN}     $3
  ${BOLD}Kafka${PLAIN}             $4
  ${BOLD}Logs${PLAIN}              $5

EOF
}
