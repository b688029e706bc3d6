"""What models did in each minute, added up over devices: rows of the table ``minutes``.

A flush adds up the telemetry that it moves, so a minute has as many rows as flushes brought parts of it; queries add
them. Counts are sums and histograms are merged exactly, so the parts may come in any order and weeks late. The table is
a few thousandths of the telemetry and answers what does not ask for one device.

DuckDB adds, outside of the interpreter's lock: while a busy fleet's records are added up, others are acknowledged.
"""

from string import Template

from arro3.core import Table

from dsops_controller.dataops.lake.columns import COLUMNS, LakeTable
from dsops_controller.dataops.lake.duck import in_memory
from dsops_controller.dataops.lake.rows import empty

HISTOGRAMS = ("latency", "confidence")
MOST_BUCKETS = 4096
"""Of one merged histogram, from its lowest to its highest. One that would have more becomes coarser: two values far apart
at the finest scale would else be billions."""

_BY_MINUTE = ("time", "day", "model", "release", "digest")
_BY_BUNDLE = ("model", "release", "digest")
_MINUTE = "make_timestamptz(epoch_us(time) - epoch_us(time) % 60000000)"
_MOST_INT = 2**63 - 1

# Sums that are too large for a column are as large as they can be. Limits of 0 are not known.
_SUMS = Template("""
keyed as not materialized (select * replace ($time as time) from source),
sums as materialized (
  select row_number() over () as part, *
  from (select $keys, max(received) as received, $totals from keyed group by $keys)
),
parts as not materialized (select sums.part, keyed.* from keyed join sums using ($keys))
""")
_WHOLE = Template(f'least(sum("$column"), {_MOST_INT})::bigint as "$name"')
_NUMBERS = Template("""
case when isfinite(coalesce(sum(${name}_sum), 0)) then coalesce(sum(${name}_sum), 0) end as ${name}_sum,
coalesce(min(nullif(${name}_min, 0)) filter (${name}_count > 0 and ${name}_max is not null), 0) as ${name}_min,
coalesce(max(greatest(${name}_max, 0)) filter (${name}_count > 0 and ${name}_min is not null), 0) as ${name}_max
""")
# A finer scale is lowered to the coarsest: bucket i moves to i >> 1 for each step, as in histograms.Merged.
_BUCKETS = Template(f"""
${{name}}_scales as materialized (
  select part, min(${{name}}_scale)::bigint as scale from parts where list_sum(${{name}}_counts) > 0 group by part
),
${{name}}_fine as materialized (
  select part, scale, bucket >> (own - scale) as bucket, sum(n) as n
  from (
    select part, scale, ${{name}}_scale as own, unnest(${{name}}_counts) as n,
           ${{name}}_offset + generate_subscripts(${{name}}_counts, 1) - 1 as bucket
    from parts join ${{name}}_scales using (part)
  )
  where n > 0 group by all
),
${{name}}_shifts as materialized (
  select part, greatest(0, ceil(log2(greatest(1, max(bucket) - min(bucket)) / {MOST_BUCKETS - 1}.0)))::bigint as shift
  from ${{name}}_fine group by part
),
${{name}}_sparse as materialized (
  select part, scale - shift as scale, bucket >> shift as bucket, n
  from ${{name}}_fine join ${{name}}_shifts using (part)
),
${{name}}_lists as materialized (
  select part, scale, min(bucket) as first, list(least(n, {_MOST_INT})::bigint order by bucket) as counts
  from (
    select part, scale, bucket, sum(n) as n
    from (
      from ${{name}}_sparse
      union all
      select part, scale, unnest(range(min(bucket), max(bucket))), 0 from ${{name}}_sparse group by part, scale
    )
    group by part, scale, bucket
  )
  group by part, scale
)
""")
_LISTS = Template("""
coalesce(${name}_lists.scale, 0) as ${name}_scale,
coalesce(${name}_lists.first, 0) as ${name}_offset,
coalesce(${name}_lists.counts, []) as ${name}_counts
""")


def roll_up(telemetry: Table) -> Table:
    """Return rows of ``minutes`` for rows of ``telemetry``: one for each minute, day, model, release and digest.

    Raises:
        duckdb.Error: There is no memory for it.
    """
    if not telemetry.num_rows:
        return empty(LakeTable.MINUTES)
    return _added(telemetry, _BY_MINUTE, _MINUTE, "1", list(COLUMNS[LakeTable.MINUTES]))


def by_bundle(minutes: Table) -> Table:
    """Return rows of ``minutes`` added up over time: one for each bundle, without ``time`` and ``day``.

    Raises:
        duckdb.Error: There is no memory for it.
    """
    wanted = [name for name in COLUMNS[LakeTable.MINUTES] if name not in {"time", "day"}]
    return _added(minutes, _BY_BUNDLE, "time", "intervals", wanted)


def _added(source: Table, keys: tuple[str, ...], time: str, intervals: str, wanted: list[str]) -> Table:
    duck = in_memory()
    try:
        duck.register("source", source)
        return Table.from_arrow(duck.sql(_query(keys, time, intervals, wanted)))
    finally:
        duck.close()


def _query(keys: tuple[str, ...], time: str, intervals: str, wanted: list[str]) -> str:
    counted = (
        "count",
        "errors",
        "unobserved",
        *(f"{name}_{part}" for name in HISTOGRAMS for part in ("zero", "count")),
    )
    totals = [
        f"sum({intervals})::bigint as intervals",
        *(_WHOLE.substitute(column=name, name=name) for name in counted),
        *(_NUMBERS.substitute(name=name) for name in HISTOGRAMS),
    ]
    sums = _SUMS.substitute(time=time, keys=", ".join(keys), totals=", ".join(totals))
    buckets = [_BUCKETS.substitute(name=name) for name in HISTOGRAMS]
    lists = [_LISTS.substitute(name=name) for name in HISTOGRAMS]
    joins = "".join(f" left join {name}_lists using (part)" for name in HISTOGRAMS)
    columns = ", ".join(f'"{name}"' for name in wanted)
    ctes = ", ".join((sums, *buckets))
    return f"with {ctes} select {columns} from (select sums.*, {', '.join(lists)} from sums{joins}) order by part"
