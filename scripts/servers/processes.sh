# shellcheck shell=bash
# Processes that outlive the command that started them.
# A process is known by its id and by a piece of its command line, since ids are used again.

command_line_of() { # PID
  if [ -r "/proc/$1/cmdline" ]; then
    tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null
  else
    ps -ww -p "$1" -o args= 2>/dev/null
  fi
}

is_running() { # PID PIECE_OF_COMMAND_LINE
  [ -n "$1" ] || return 1
  case $(command_line_of "$1") in
    *"$2"*) return 0 ;;
    *) return 1 ;;
  esac
}

# Starts a command in a process group of its own, where the terminal's Ctrl-C does not reach it. Returns when the process
# carries the command's line, so that is_running knows it; the last argument must tell it from others.
start_detached() { # LOG COMMAND...; sets DETACHED_PID
  local log=$1 tries=250
  shift
  set -m
  nohup "$@" >>"$log" 2>&1 </dev/null &
  DETACHED_PID=$!
  disown "$DETACHED_PID" # or bash would tell how it ended
  set +m
  until is_running "$DETACHED_PID" "${!#}" || [ "$tries" -eq 0 ] || ! kill -0 "$DETACHED_PID" 2>/dev/null; do
    tries=$((tries - 1))
    sleep 0.02
  done
}

# Sends SIGNAL and waits until the process is gone; 1 if it is still there after SECONDS.
signal_and_wait() { # SIGNAL PID PIECE_OF_COMMAND_LINE SECONDS
  local tenths=$(($4 * 10))
  kill -s "$1" "$2" 2>/dev/null || true
  while is_running "$2" "$3"; do
    [ "$tenths" -gt 0 ] || return 1
    tenths=$((tenths - 1))
    sleep 0.1
  done
}
