# shellcheck shell=bash
# TCP ports of 127.0.0.1: which are taken, which are free.

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Whether WHO can listen on PORT; if not, says how to MOVE it ("TIDEMILL_SINK_PORT=...").
check_port() { # WHO PORT MOVE
  case $2 in
    '' | *[!0-9]*)
      complain "'$2' is not a port number for $1: choose one with $3"
      return 1
      ;;
  esac
  port_is_taken "$2" || return 0
  complain "port $2, wanted by $1, is taken by another program: stop that, or choose another port with $3"
  return 1
}

# A process that is killed seems gone a moment before its port is free.
await_free_port() { # PORT
  local tenths=50
  while [ "$tenths" -gt 0 ] && port_is_taken "$1"; do
    tenths=$((tenths - 1))
    sleep 0.1
  done
}

# Free ports, each printed once, from below the range that systems hand out to clients.
free_ports() { # HOW_MANY
  local found=' ' count=0 port
  while [ "$count" -lt "$1" ]; do
    port=$((20000 + RANDOM % 12000))
    case $found in *" $port "*) continue ;; esac
    port_is_taken "$port" && continue
    found="$found$port "
    count=$((count + 1))
    echo "$port"
  done
}
