# shellcheck shell=bash
# How long the pipeline stands still while something is done to it: a few new orders ten times a second, beside any load, and what the
# slowest of them took from the commit at the source to the commit in the sink. Their ids are below zero, where no load has any.
# Wants console.sh, and "on_source" and "on_sink", which run SQL there and print what it answers, bare. The sink must have
# track_commit_timestamp = on, and both servers the same time.

TICKS_MAX=36000 # an hour

ticks=''        # the process that makes them
steps=()        # each: what was done, from when and until when by the clock of the source

# Eight at once, so that each partition nearly always has one of them. Each tick is a commit of its own.
begin_ticks() {
  on_source "DO \$\$ BEGIN
    SET application_name = 'ticks';
    FOR tick IN 1..$TICKS_MAX LOOP
      INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)
        SELECT -8 * tick - n, 1001, 'tick', 1, 1, 1, 'PENDING' FROM generate_series(0, 7) AS n;
      COMMIT;
      PERFORM pg_sleep(0.1);
    END LOOP;
  END \$\$" >/dev/null 2>&1 &
  ticks=$!
}

give_up_ticks() { on_source "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ticks'"; }

end_ticks() {
  [ "$(give_up_ticks)" = t ] ||
    fail 'the orders that are to show a standstill have ended before'
  wait "$ticks" || true # it was terminated
  ticks=''
}

source_time() { on_source 'SELECT clock_timestamp()'; }

timed() { # WHAT COMMAND...
  local what=$1 from
  shift
  from=$(source_time)
  "$@"
  steps+=("$what|$from|$(source_time)")
}

# When all of them have come.
tell_standstills() {
  local step what from to
  for step in "${steps[@]}"; do
    IFS='|' read -r what from to <<<"$step"
    say "$what: $(on_sink "
      SELECT format('%s s; of %s orders the slowest took %s s, half of them no more than %s s',
        round(extract(epoch FROM timestamptz '$to' - timestamptz '$from')::numeric, 1), count(*),
        round(extract(epoch FROM max(took))::numeric, 2),
        round(extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY took))::numeric, 3))
      FROM (SELECT pg_xact_commit_timestamp(xmin) - source_commit_time AS took FROM result.orders_with_user_info
            WHERE order_id < 0 AND source_commit_time BETWEEN '$from' AND '$to') AS ticks")"
  done
}
