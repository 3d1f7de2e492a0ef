# shellcheck shell=bash
# A load that lasts for as long as something else does: short loads one after the other, each compared with the source.
# Wants console.sh, and "tidemill_lab", which runs that program where the pipeline is.

ORDERS=1000
RATE=200 # changes a second: each load lasts a quarter of a minute

loading='' # the loads go on for as long as this file is there
load=''    # their process

begin_load() {
  loading=$(mktemp)
  {
    while [ -e "$loading" ]; do
      tidemill_lab load --orders "$ORDERS" --rate "$RATE" || exit 1
    done
  } &
  load=$!
}

end_load() { # waits for the last of them
  give_up_load
  wait "$load" || fail 'the load was not carried whole, see above'
}

give_up_load() { [ -z "$loading" ] || rm -f "$loading"; }
