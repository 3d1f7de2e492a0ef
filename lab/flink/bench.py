#!/usr/bin/env python3
"""Runs one variant of the Flink pipeline on this machine and measures it. Called by scripts/bench.sh --against flink.

  $FLINKBASE/venv/bin/python bench.py VARIANT --out FILE [--rows N] [--loads-only]

A thousand orders from the start to the sink; single changes; two loads, updates, single changes again.
Everything listens on loopback; every process started is ended by its own pid.
"""
import argparse, atexit, datetime, glob, json, os, re, shutil, signal, string, subprocess, sys, tempfile, threading, time
import urllib.request
import psycopg
from variants import VARIANTS

HERE = os.path.dirname(os.path.abspath(__file__))
B = os.environ["FLINKBASE"]
# What a run writes. PostgreSQL runs as a user of its own, who may not be let into the folder of the downloads.
DATA = tempfile.mkdtemp(prefix="tidemill-flink-")
os.chmod(DATA, 0o755)
PGBIN = os.environ.get("TIDEMILL_POSTGRES_BIN") or max(glob.glob("/usr/lib/postgresql/*/bin"), default="/usr/bin")
SRC_PORT, SINK_PORT, KAFKA, CTRL, REST, RPC = 15432, 15433, 19092, 19093, 18081, 16123
CLK = os.sysconf("SC_CLK_TCK")
now = time.monotonic


def log(*a):
    print(f"[{datetime.datetime.now():%H:%M:%S}]", *a, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- processes
PROCS = {}


def start(name, argv, env=None, user=None, cwd=None):
    os.makedirs(f"{DATA}/log", exist_ok=True)
    out = open(f"{DATA}/log/{name}.log", "ab")
    kw = dict(user=user, group=user, extra_groups=[]) if user else {}
    p = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                         env=env or os.environ.copy(), cwd=cwd or tempfile.gettempdir(), start_new_session=True, **kw)
    PROCS[name] = p
    return p


def stop(name, sig=signal.SIGTERM, wait=40):
    p = PROCS.pop(name, None)
    if p is None:
        return
    if p.poll() is None:
        p.send_signal(sig)
        try:
            p.wait(wait)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def stop_all():
    for n in [n for n in PROCS if n.startswith(("sqlc", "tm"))] + ["jm", "kafka"]:
        stop(n)
    for n in ("pgsrc", "pgsink"):
        stop(n, signal.SIGINT)
    for n in list(PROCS):
        stop(n)


def wipe():
    stop_all()
    shutil.rmtree(DATA, ignore_errors=True)


atexit.register(wipe)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def sh(argv, **kw):
    r = subprocess.run(argv, capture_output=True, text=True, **kw)
    if r.returncode:
        raise RuntimeError(f"{argv[0]}: {r.stdout[-2000:]} {r.stderr[-2000:]}")
    return r.stdout


# ---------------------------------------------------------------- sampling
def cpu_s(pid):
    try:
        f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(f[11]) + int(f[12])) / CLK
    except OSError:
        return 0.0


def rss_mb(pid):
    try:
        m = re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read())
        return int(m.group(1)) / 1024 if m else 0.0
    except OSError:
        return 0.0


def tree(pid):
    try:
        kids = open(f"/proc/{pid}/task/{pid}/children").read().split()
    except OSError:
        kids = []
    return [pid] + [int(k) for k in kids]


def pss_mb(pids):
    t = 0
    for p in pids:
        try:
            t += int(re.search(r"Pss:\s+(\d+)", open(f"/proc/{p}/smaps_rollup").read()).group(1))
        except (OSError, AttributeError):
            pass
    return t / 1024


def machine_cpu_s():
    f = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return (f[0] + f[1] + f[2] + f[5] + f[6]) / CLK


def own_cpu_s():
    """This script, what it started and has waited for, and what it started that still runs."""
    t = os.times()
    n = t.user + t.system + t.children_user + t.children_system
    for name, p in list(PROCS.items()):
        try:
            f = open(f"/proc/{p.pid}/stat").read().rsplit(")", 1)[1].split()
            n += sum(int(f[i]) for i in (11, 12, 13, 14)) / CLK
        except OSError:
            continue
        if name.startswith("pg"):
            n += sum(cpu_s(k) for k in tree(p.pid)[1:])
    return n


QUIET = {"wait": 0}


def quiet():
    """Waits until what else runs on the machine takes less than 0.25 core for 3 s (or until QUIET['wait'] is over)."""
    t, ok = now(), 0
    while now() - t < QUIET["wait"]:
        a, b, c = machine_cpu_s(), own_cpu_s(), now()
        time.sleep(1)
        other = ((machine_cpu_s() - a) - (own_cpu_s() - b)) / (now() - c)
        ok = ok + 1 if other < 0.25 else 0
        if ok >= 3:
            break
    return round(now() - t, 1)


class Sampler(threading.Thread):
    """Resident memory four times a second (PostgreSQL's proportional set once in two seconds)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rows, self.stopped = [], False
        self.start()

    def run(self):
        i, pg = 0, (0.0, 0.0)
        while not self.stopped:
            if i % 8 == 0:
                pg = tuple(pss_mb(tree(PROCS[n].pid)) if n in PROCS else 0.0 for n in ("pgsrc", "pgsink"))
            r = {n: rss_mb(p.pid) for n, p in list(PROCS.items()) if n in ("jm", "kafka") or n.startswith("tm")}
            self.rows.append((now(), r.get("jm", 0), sum(v for k, v in r.items() if k.startswith("tm")),
                              r.get("kafka", 0), pg[0], pg[1]))
            i += 1
            time.sleep(0.25)

    def flink_cpu(self):
        return sum(cpu_s(p.pid) for n, p in list(PROCS.items()) if n == "jm" or n.startswith("tm"))

    def kafka_cpu(self):
        return cpu_s(PROCS["kafka"].pid) if "kafka" in PROCS else 0.0

    def window(self, a, b):
        rows = [r for r in self.rows if a <= r[0] <= b] or self.rows[-1:]
        tot = [r[1] + r[2] for r in rows]
        k = max(range(len(rows)), key=lambda i: tot[i])
        return {"flink_rss_mb_max": round(tot[k]), "flink_rss_mb_mean": round(sum(tot) / len(tot)),
                "jm_rss_mb_max": round(max(r[1] for r in rows)), "tm_rss_mb_max": round(max(r[2] for r in rows)),
                "kafka_rss_mb_max": round(max(r[3] for r in rows)),
                "pg_source_pss_mb_max": round(max(r[4] for r in rows)),
                "pg_sink_pss_mb_max": round(max(r[5] for r in rows))}


class Phase:
    def __init__(self, s, name, out):
        self.s, self.name, self.out = s, name, out

    def __enter__(self):
        self.q = quiet()
        log("phase", self.name, f"(waited {self.q} s for quiet)")
        self.m, self.o = machine_cpu_s(), own_cpu_s()
        self.a, self.c, self.k, self.l = now(), self.s.flink_cpu(), self.s.kafka_cpu(), os.getloadavg()[0]
        return self

    def __exit__(self, *e):
        b = now()
        d = self.out.setdefault(self.name, {})
        d.update(other_cores_busy=round(max(0.0, (machine_cpu_s() - self.m) - (own_cpu_s() - self.o)) / (b - self.a), 2),
                 seconds=round(b - self.a, 2), flink_cpu_s=round(self.s.flink_cpu() - self.c, 2),
                 kafka_cpu_s=round(self.s.kafka_cpu() - self.k, 2),
                 load1_before=round(self.l, 2), load1_after=round(os.getloadavg()[0], 2), **self.s.window(self.a, b))
        log("  ", json.dumps(d, ensure_ascii=False)[:1500])


# ---------------------------------------------------------------- stack
def src(db="source_db"):
    return psycopg.connect(f"host=127.0.0.1 port={SRC_PORT} user=postgres dbname={db}", autocommit=True)


def sink(db="sink_db"):
    return psycopg.connect(f"host=127.0.0.1 port={SINK_PORT} user=postgres dbname={db}", autocommit=True)


def wait_for(f, limit, what, every=0.1):
    end, err = now() + limit, None
    while now() < end:
        try:
            r = f()
            if r:
                return r
        except Exception as e:
            err = e
        time.sleep(every)
    raise RuntimeError(f"{what}: not within {limit} s ({err})")


def pg_up():
    for n, port in (("pgsrc", SRC_PORT), ("pgsink", SINK_PORT)):
        d = f"{DATA}/{n}"
        shutil.rmtree(d, ignore_errors=True)
        os.makedirs(d)
        shutil.chown(d, "postgres", "postgres")
        sh([f"{PGBIN}/initdb", "-D", d, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
           user="postgres", group="postgres", extra_groups=[], cwd=tempfile.gettempdir())
        extra = ["-c", "wal_level=logical", "-c", "max_wal_senders=10", "-c", "max_replication_slots=10"] \
            if n == "pgsrc" else []
        start(n, [f"{PGBIN}/postgres", "-D", d, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                  "-c", "unix_socket_directories=", "-c", "timezone=UTC", *extra], user="postgres")
    for c, db, f in ((src, "source_db", "source.sql"), (sink, "sink_db", "sink.sql")):
        con = wait_for(lambda: c("postgres"), 30, "PostgreSQL")
        con.execute(f"CREATE DATABASE {db}")
        con.close()
        with c() as con:
            con.execute(open(f"{HERE}/sql/{f}").read())


def kafka_up():
    t = now()
    d = f"{DATA}/kafka"
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    open(f"{DATA}/kafka.properties", "w").write(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{CTRL}
listeners=PLAINTEXT://127.0.0.1:{KAFKA},CONTROLLER://127.0.0.1:{CTRL}
advertised.listeners=PLAINTEXT://127.0.0.1:{KAFKA}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={d}
num.partitions=1
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
group.initial.rebalance.delay.ms=0
""")
    open(f"{DATA}/kafka-log4j.properties", "w").write(
        "log4j.rootLogger=WARN, o\nlog4j.appender.o=org.apache.log4j.ConsoleAppender\n"
        "log4j.appender.o.layout=org.apache.log4j.PatternLayout\nlog4j.appender.o.layout.ConversionPattern=%d %p %c %m%n\n"
        "log4j.logger.kafka.server.KafkaRaftServer=INFO\n")
    cp = f"{B}/jars-kafka/*"
    j = ["java", f"-Dlog4j.configuration=file:{DATA}/kafka-log4j.properties", "-cp", cp]
    sh([*j, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", f"{DATA}/kafka.properties"])
    # heap and collector as Kafka's own start script has them
    start("kafka", ["java", "-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
                    "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", *j[1:],
                    "kafka.Kafka", f"{DATA}/kafka.properties"])
    wait_for(lambda: b"Kafka Server started" in open(f"{DATA}/log/kafka.log", "rb").read(), 60, "Kafka")
    return round(now() - t, 2)


def topics():
    for t in ("ods_orders", "ods_users", "dwd_orders", "result_orders_with_user_info"):
        sh(["java", f"-Dlog4j.configuration=file:{DATA}/kafka-log4j.properties", "-cp", f"{B}/jars-kafka/*",
            "kafka.admin.TopicCommand", "--bootstrap-server", f"127.0.0.1:{KAFKA}", "--create", "--if-not-exists",
            "--topic", t, "--partitions", "1", "--replication-factor", "1"])


ORDER_SELECT = """SELECT g,
 CASE WHEN g %% 100 = 0 THEN 900000 + g %% 7 ELSE 1 + (g * 7919) %% %(users)s END,
 'Product ' || g, (ARRAY['电子产品','服装鞋帽','家居用品','图书音像','其他'])[1 + g %% 5],
 1 + g %% 3, (10 + g %% 9000)::numeric(10,2), ((10 + g %% 9000) * (1 + g %% 3))::numeric(10,2),
 (ARRAY['PENDING','SHIPPED','COMPLETED','CANCELLED'])[1 + g %% 4],
 (now() AT TIME ZONE 'UTC')::timestamp(3) - (g %% 86400) * interval '1 second', (now() AT TIME ZONE 'UTC')::timestamp(3)
 FROM generate_series(%(a)s::bigint, %(b)s::bigint) g"""


def preload(users, orders):
    with src() as c:
        c.execute("""INSERT INTO business.users SELECT g, 'user' || g, 'user' || g || '@example.com', '138' || lpad(g::text, 8, '0'),
          (ARRAY['北京','上海','广州','深圳','杭州','成都','西安','长沙'])[1 + g %% 8],
          (now() AT TIME ZONE 'UTC')::timestamp(3), (now() AT TIME ZONE 'UTC')::timestamp(3)
          FROM generate_series(1, %s::bigint) g""", (users,))
        c.execute("INSERT INTO business.orders " + ORDER_SELECT, dict(users=users, a=1, b=orders))
        c.execute("VACUUM ANALYZE")


def flink_env(v):
    conf = f"{DATA}/conf"
    shutil.rmtree(conf, ignore_errors=True)
    shutil.copytree(f"{B}/flink/conf", conf)
    for d in ("run", "ckpt", "flog", "fio"):
        shutil.rmtree(f"{DATA}/{d}", ignore_errors=True)
        os.makedirs(f"{DATA}/{d}")
    over = {"rest.port": str(REST), "rest.bind-port": str(REST), "jobmanager.rpc.port": str(RPC),
            "io.tmp.dirs": f"{DATA}/fio", "state.checkpoints.dir": f"file://{DATA}/ckpt", "parallelism.default": "1", **v["flink"]}
    keep = [l for l in open(f"{conf}/flink-conf.yaml").read().splitlines()
            if l.split(":")[0].strip() not in over]
    open(f"{conf}/flink-conf.yaml", "w").write("\n".join(keep + [f"{k}: {x}" for k, x in over.items()]) + "\n")
    e = dict(os.environ, FLINK_CONF_DIR=conf, FLINK_LOG_DIR=f"{DATA}/flog", FLINK_PID_DIR=f"{DATA}/run", HOSTNAME="localhost",
             USER="root")
    e.pop("JAVA_TOOL_OPTIONS", None)
    return e


def rest(path):
    return json.load(urllib.request.urlopen(f"http://127.0.0.1:{REST}{path}", timeout=10))


def render(v):
    """All stages in one session: five jobs in one cluster."""
    text = []
    for f in ("1_cdc_source_to_kafka", "2_dwd_layer", "3_dimension_join", "4_sink_to_postgres"):
        template = string.Template(open(f"{HERE}/sql/{f}.sql").read())
        text.append(template.substitute({**v["sql"], "SRC_PORT": SRC_PORT, "SINK_PORT": SINK_PORT, "KAFKA": f"127.0.0.1:{KAFKA}"}))
    path = f"{DATA}/all.sql"
    open(path, "w").write("\n".join(text))
    return path


def sqlclient(f, env):
    r = subprocess.run([f"{B}/flink/bin/sql-client.sh", "-f", f], env=env, capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=180)
    open(f"{DATA}/log/sqlclient.log", "a").write(r.stdout + r.stderr)
    if "[ERROR]" in r.stdout or r.returncode:
        raise RuntimeError("sql-client: " + r.stdout[-3000:] + r.stderr[-1000:])


def flink_up(v, total_orders):
    """Starts the cluster, submits the stages; seconds from the start of the cluster for each step."""
    env, sql, t, out = flink_env(v), render(v), now(), {}
    first = {}

    def watch():
        c = sink()
        while not first.get("stop"):
            if c.execute("SELECT 1 FROM result.orders_with_user_info LIMIT 1").fetchone():
                first["t"] = now() - t
                break
            time.sleep(0.005)
        c.close()
    th = threading.Thread(target=watch, daemon=True)
    th.start()
    start("jm", [f"{B}/flink/bin/jobmanager.sh", "start-foreground"], env=env)
    start("tm1", [f"{B}/flink/bin/taskmanager.sh", "start-foreground", "-Dtaskmanager.resource-id=tm1"], env=env)
    wait_for(lambda: rest("/overview")["slots-total"] >= 8, 90, "Flink's slots")
    out["cluster_ready_s"] = round(now() - t, 2)
    sqlclient(sql, env)
    out["all_submitted_s"] = round(now() - t, 2)
    wait_for(lambda: "t" in first, 240, "first row in the sink", 0.01)
    out["first_row_s"] = round(first["t"], 2)
    with sink() as c:
        wait_last(c, total_orders, 900)
        out["all_rows_s"] = round(now() - t, 2)
        wait_for(lambda: c.execute("SELECT count(*) FROM result.orders_with_user_info").fetchone()[0] >= total_orders,
                 60, "all rows", 0.05)
        out["all_rows_counted_s"] = round(now() - t, 2)
    return out


def wait_last(c, oid, limit):
    end = now() + limit
    while now() < end:
        if c.execute("SELECT 1 FROM result.orders_with_user_info WHERE order_id = %s", (oid,)).fetchone():
            return
        time.sleep(0.01)
    m = c.execute("SELECT count(*), max(order_id) FROM result.orders_with_user_info").fetchone()
    raise RuntimeError(f"row {oid} not in the sink within {limit} s; {m}")


def slots():
    with src() as c:
        return {n: a for n, a in c.execute("SELECT slot_name, active FROM pg_replication_slots ORDER BY 1").fetchall()}


def wait_slots(limit=120):
    """Both captures must be streaming before a change is timed; returns the seconds that took."""
    t = now()
    while now() - t < limit:
        x = slots()
        if len(x) >= 2 and all(x.values()):
            return round(now() - t, 2)
        time.sleep(0.2)
    return None


# ---------------------------------------------------------------- measuring
def pct(xs, p):
    xs = sorted(xs)
    return xs[min(len(xs) - 1, max(0, int(round(p / 100 * len(xs) + 0.5)) - 1))]


class Changes:
    """Single changes on the source at a steady pace; when each becomes visible in the sink."""

    def __init__(self, tag, n, rate, first_new, first_upd, users):
        self.tag, self.n, self.rate, self.users = tag, n, rate, users
        self.first_new, self.first_upd = first_new, first_upd
        self.pending, self.commit, self.send, self.seen, self.kind = {}, {}, {}, {}, {}
        self.started = now()

    def writer(self):
        c = src()
        t = self.started = now()
        for k in range(self.n):
            d = t + k / self.rate - now()
            if d > 0:
                time.sleep(d)
            mark = f"{self.tag}-{k}"
            if k % 2 == 0:
                oid = self.first_new + k // 2
                self.kind[k], self.pending[oid] = "insert", (mark, k)
                self.send[k] = now()
                c.execute("INSERT INTO business.orders VALUES (%s,%s,%s,'电子产品',1,1999,1999,'PENDING',"
                          "(now() AT TIME ZONE 'UTC')::timestamp(3),(now() AT TIME ZONE 'UTC')::timestamp(3))",
                          (oid, 1 + oid % self.users, mark))
            else:
                oid = self.first_upd + k // 2
                self.kind[k], self.pending[oid] = "update", (mark, k)
                self.send[k] = now()
                c.execute("UPDATE business.orders SET product_name=%s, order_status='SHIPPED',"
                          " updated_at=(now() AT TIME ZONE 'UTC')::timestamp(3) WHERE order_id=%s", (mark, oid))
            self.commit[k] = now()
        self.n = len(self.commit)
        c.close()

    def run(self, limit=60):
        w = threading.Thread(target=self.writer, daemon=True)
        w.start()
        c = sink()
        q = "SELECT order_id, product_name FROM result.orders_with_user_info WHERE order_id = ANY(%s)"
        quiet = now()
        while w.is_alive() or self.pending:
            if self.pending:
                for oid, name in c.execute(q, (list(self.pending),), prepare=True).fetchall():
                    p = self.pending.get(oid)
                    if p and p[0] == name:
                        self.seen[p[1]] = now()
                        del self.pending[oid]
                        quiet = now()
            if not w.is_alive() and now() - quiet > limit:
                break
            time.sleep(0.0006)
        w.join()
        c.close()
        return self

    def stats(self):
        ok = [k for k in self.commit if k in self.seen]
        lat = [max(0.0, (self.seen[k] - self.commit[k]) * 1000) for k in ok]
        snd = [(self.seen[k] - self.send[k]) * 1000 for k in ok]
        if not lat:
            return {"changes": len(self.commit), "seen": 0}
        out = {"changes": len(self.commit), "seen": len(ok), "rate_per_s": self.rate}
        for n, xs in (("", lat), ("from_send_", snd)):
            out.update({f"{n}p50_ms": round(pct(xs, 50), 1), f"{n}p95_ms": round(pct(xs, 95), 1),
                        f"{n}p99_ms": round(pct(xs, 99), 1), f"{n}max_ms": round(max(xs), 1), f"{n}min_ms": round(min(xs), 1),
                        f"{n}mean_ms": round(sum(xs) / len(xs), 1)})
        return out


def load(n, first, users, batch=5000):
    s, k = src(), sink()
    t = now()
    for a in range(first, first + n, batch):
        s.execute("INSERT INTO business.orders " + ORDER_SELECT, dict(users=users, a=a, b=min(a + batch, first + n) - 1))
    ins = now() - t
    wait_last(k, first + n - 1, 900)
    dt = now() - t
    have = k.execute("SELECT count(*) FROM result.orders_with_user_info WHERE order_id BETWEEN %s AND %s",
                     (first, first + n - 1)).fetchone()[0]
    return {"rows": n, "source_insert_s": round(ins, 2), "all_in_sink_s": round(dt, 2), "rows_per_s": round(n / dt),
            "rows_found": have}


def update_load(n, first, batch=5000):
    s, k = src(), sink()
    t = now()
    for a in range(first, first + n, batch):
        s.execute("UPDATE business.orders SET product_name = 'upd' || order_id, order_status='COMPLETED' WHERE order_id BETWEEN %s AND %s",
                  (a, min(a + batch, first + n) - 1))
    ins = now() - t
    last = first + n - 1
    end = now() + 900
    while now() < end and not k.execute("SELECT 1 FROM result.orders_with_user_info WHERE order_id=%s AND product_name=%s",
                                        (last, f"upd{last}")).fetchone():
        time.sleep(0.01)
    dt = now() - t
    have = k.execute("SELECT count(*) FROM result.orders_with_user_info WHERE order_id BETWEEN %s AND %s AND product_name = 'upd' || order_id",
                     (first, last)).fetchone()[0]
    return {"rows": n, "source_update_s": round(ins, 2), "all_in_sink_s": round(dt, 2), "rows_per_s": round(n / dt),
            "rows_found": have}


def diff():
    """Every row that the source implies against every row of the sink."""
    with src() as s, sink() as k:
        want = dict(s.execute("""SELECT o.order_id, md5(concat_ws('|', o.user_id, coalesce(u.username,'Unknown User'),
          coalesce(u.email,'unknown@example.com'), coalesce(u.phone,'N/A'), coalesce(u.city,'Unknown'), trim(o.product_name),
          CASE o.product_category WHEN '电子产品' THEN 'ELECTRONICS' WHEN '服装鞋帽' THEN 'CLOTHING' WHEN '家居用品' THEN 'HOME'
            WHEN '图书音像' THEN 'BOOKS' ELSE 'OTHER' END, o.quantity, o.unit_price, o.total_amount, '¥' || o.total_amount, o.order_status,
          CASE o.order_status WHEN 'PENDING' THEN '待处理' WHEN 'SHIPPED' THEN '已发货' WHEN 'COMPLETED' THEN '已完成'
            WHEN 'CANCELLED' THEN '已取消' ELSE '未知状态' END,
          o.order_time, to_char(o.order_time,'YYYY-MM-DD'), extract(hour from o.order_time)::int,
          CASE WHEN u.city IN ('北京','上海','广州','深圳') THEN '一线城市' WHEN u.city IN ('杭州','成都','南京','武汉') THEN '新一线城市'
            ELSE '其他城市' END)) FROM business.orders o LEFT JOIN business.users u USING (user_id)""").fetchall())
        have = dict(k.execute("""SELECT order_id, md5(concat_ws('|', user_id, username, email, phone, city, product_name,
          product_category_normalized, quantity, unit_price, total_amount, total_amount_yuan, order_status, order_status_desc,
          order_time, order_date, order_hour, user_city_tier)) FROM result.orders_with_user_info""").fetchall())
    miss = [i for i in want if i not in have]
    extra = [i for i in have if i not in want]
    wrong = [i for i in want if i in have and have[i] != want[i]]
    return {"source_rows": len(want), "sink_rows": len(have), "missing": len(miss), "extra": len(extra), "wrong": len(wrong),
            "examples": {"missing": miss[:3], "extra": extra[:3], "wrong": wrong[:3]},
            "equal": not (miss or extra or wrong)}


def settled_diff(limit=30):
    end = now() + limit
    while True:
        d = diff()
        if d["equal"] or now() > end:
            return d
        time.sleep(2)


def versions():
    pgv = sh([f"{PGBIN}/postgres", "--version"]).strip()
    jv = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[0]
    lib = sorted(os.listdir(f"{B}/jars-flink"))
    return {"flink": "1.18.1", "kafka": next(x for x in os.listdir(f"{B}/jars-kafka") if x.startswith("kafka_2.13")),
            "postgresql": pgv, "java": jv, "connectors": [x for x in lib if x.startswith(("flink-", "postgresql", "kafka"))],
            "cpu": re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read()).group(1), "cores": os.cpu_count()}


def measure(P, s, a):
    """Loads, and single changes where they are wanted: the pipeline is up, and has copied the orders that were there."""
    P["slots_active_after_startup_s"] = wait_slots()
    time.sleep(5)
    new, changed = 10_000_001, 1
    if not a.loads_only:
        with Phase(s, "warmup", P):
            P["warmup"] = Changes("warm", a.warmup, 5, new, changed, a.users).run(limit=90).stats()
        new, changed = new + a.warmup, changed + a.warmup
        with Phase(s, "idle", P):
            time.sleep(15)
    with Phase(s, "load", P):
        P["load"] = load(a.rows, 1_000_001, a.users)
    with Phase(s, "load_warm", P):
        P["load_warm"] = load(a.rows, 2_000_001, a.users)
    with Phase(s, "update_load", P):
        P["update_load"] = update_load(a.updates, 1_000_001)
    if not a.loads_only:
        time.sleep(10)
        with Phase(s, "latency_warm", P):
            P["latency_warm"] = Changes("lw", a.changes, 5, new, changed, a.users).run(limit=90).stats()
    P["diff"] = settled_diff()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("variant", choices=VARIANTS)
    ap.add_argument("--rows", type=int, default=200000)
    ap.add_argument("--updates", type=int, default=50000)
    ap.add_argument("--users", type=int, default=10000)
    ap.add_argument("--copied", type=int, default=1000, help="orders that are there at the start, at most a million")
    ap.add_argument("--changes", type=int, default=200)
    ap.add_argument("--warmup", type=int, default=50)
    ap.add_argument("--loads-only", action="store_true")
    ap.add_argument("--quiet-wait", type=float, default=0, help="before each phase, seconds to wait at most for a quiet machine")
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    v = VARIANTS[a.variant]
    QUIET["wait"] = a.quiet_wait
    P = {"variant": a.variant, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
         "versions": versions(), "args": vars(a), "load_average_at_start": os.getloadavg()}
    try:
        pg_up()
        preload(a.users, a.copied)
        P["kafka_start_s"] = kafka_up()
        topics()
        s = Sampler()
        with Phase(s, "startup", P):
            P["startup"] = flink_up(v, a.copied)
        measure(P, s, a)
    except Exception as e:
        P["error"] = f"{type(e).__name__}: {e}"
        log("ERROR", P["error"])
    finally:
        stop_all()
        with open(a.out, "w") as out:
            json.dump(P, out, ensure_ascii=False, indent=1)
    sys.exit("error" in P)


if __name__ == "__main__":
    main()
