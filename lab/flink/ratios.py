#!/usr/bin/env python3
"""Holds the figures of scripts/bench.sh whole against those of bench.py, best variant for each figure.

  ratios.py FOLDER    with tidemill-N.json (bench.sh whole --one-table --json) and VARIANT-N.json (bench.py), N the round
"""
import glob, json, os, re, statistics, sys


def find(record, *path):
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def load(record, name):
    return next((load for load in record["loads"] if load["name"] == name), None)


def speed(record, name):
    found = load(record, name)
    return found and found["rows"] / found["seconds"]


def cpu(record, name):
    found = load(record, name)
    return found and found["cpu_seconds"] * 1e6 / found["rows"]


def latency(record, key):
    return next((one[key] for one in record["latencies"] if one["rate"] == 5), None)


def flink_cpu(record):
    phase = find(record, "load_warm") or {}
    return phase.get("flink_cpu_s") and phase["flink_cpu_s"] * 1e6 / phase["rows"]


def flink_memory(record):
    peaks = [find(record, phase, "flink_rss_mb_max") for phase in ("load", "load_warm", "update_load")]
    return max((peak for peak in peaks if peak), default=None)


def flink_copy(record):
    """From the first row in the sink to the last."""
    startup, copied = find(record, "startup"), find(record, "args", "copied")
    return startup and copied and (copied - 1) / (startup["all_rows_counted_s"] - startup["first_row_s"])


def flink_idle(record):
    idle = find(record, "idle") or {}
    return idle.get("flink_cpu_s") and 100 * idle["flink_cpu_s"] / idle["seconds"]


# Figure, unit, ours, Flink's, whether more is better.
FIGURES = [
    ("copy of what is there", "rows/s", lambda r: speed(r, "copy of what was there"), flink_copy, True),
    ("inserts, warm", "rows/s", lambda r: speed(r, "inserts"), lambda r: find(r, "load_warm", "rows_per_s"), True),
    ("updates of a status", "rows/s", lambda r: speed(r, "updates of a status"), lambda r: find(r, "update_load", "rows_per_s"), True),
    ("processor time of a row", "µs", lambda r: cpu(r, "inserts"), flink_cpu, False),
    ("5 changes a second, p50", "ms", lambda r: latency(r, "p50_ms"), lambda r: find(r, "latency_warm", "p50_ms"), False),
    ("5 changes a second, p99", "ms", lambda r: latency(r, "p99_ms"), lambda r: find(r, "latency_warm", "p99_ms"), False),
    ("memory, peak", "MB", lambda r: sum(one["peak"] for one in r["memory"]), flink_memory, False),
    ("idle", "% of a processor", lambda r: 100 * r["idle"], flink_idle, False),
    ("start to first row", "s", lambda r: r["first_row_seconds"], lambda r: find(r, "startup", "first_row_s"), False),
]


def runs(folder):
    """The records of each name, by round."""
    found = {}
    for path in sorted(glob.glob(f"{folder}/*-*.json")):
        name = re.fullmatch(r"(.+)-\d+\.json", os.path.basename(path))
        with open(path) as file:
            found.setdefault(name[1], []).append(json.load(file))
    return found


def median(records, figure):
    figures = [found for found in map(figure, records) if found is not None]
    return statistics.median(figures) if figures else None


def main():
    found = runs(sys.argv[1])
    ours, theirs = found.pop("tidemill", []), found
    names = sorted(theirs)
    width = max(len(f"{figure}, {unit}") for figure, unit, *_ in FIGURES)
    print(" " * width, *(f"{name:>14}" for name in ["tidemill", *names, "times better"]))
    for figure, unit, of_ours, of_theirs, more in FIGURES:
        our = median(ours, of_ours)
        their = {name: median(records, of_theirs) for name, records in theirs.items()}
        best = (max if more else min)((one for one in their.values() if one is not None), default=None)
        ratio = None if our is None or best is None else our / best if more else best / our
        cells = [our, *(their[name] for name in names), ratio]
        print(f"{figure + ', ' + unit:{width}}", *("            --" if cell is None else f"{cell:14,.1f}" for cell in cells))
    print("Medians of all rounds. times better: than the better variant of Flink, for each figure.")
    for name, records in found.items():
        for record in records:
            error = find(record, "error")
            if error:
                print(f"{name} ended early: {error}")
            elif not find(record, "diff", "equal"):
                print(f"{name}: the sink is not the source: {find(record, 'diff')}")


main()
