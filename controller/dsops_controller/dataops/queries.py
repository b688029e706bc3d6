"""The SQL that the store runs in DuckDB, over views named after the lake's tables.

``TABLE`` in a definition stands for the name of a table. Partition values are read from the paths as text: a model may
be named ``007``.
"""

SET_FILES = "set variable TABLE_files = $files"

FILES = """read_parquet(
  getvariable('TABLE_files'), hive_partitioning = true, hive_types_autocast = false, union_by_name = true
)"""

LAKE_AND_INBOX = """
create view TABLE as
select COLUMNS from SOURCE
union all by name select COLUMNS from TABLE_inbox
"""

INBOX_ONLY = "create view TABLE as select COLUMNS from TABLE_inbox"

TELEMETRY_SUMS = """
select device, model, release, digest, sum("count"), sum(errors), sum(latency_zero),
       min(latency_min) filter (latency_count > 0), max(latency_max) filter (latency_count > 0),
       sum(confidence_sum), sum(confidence_count), max(epoch_us(time) + interval_ms * 1000)
from telemetry
where ($model is null or model = $model) and ($device is null or device = $device)
  and time >= $since and cast(day as date) >= cast($since as date)
group by device, model, release, digest
order by device, model, release, digest
"""

TELEMETRY_BUCKETS = """
select device, model, release, digest, scale, list(bucket), list(total)
from (
  select device, model, release, digest, scale, bucket, sum(c) as total
  from (
    select device, model, release, digest, latency_scale as scale,
           latency_offset + generate_subscripts(latency_counts, 1) - 1 as bucket, unnest(latency_counts) as c
    from telemetry
    where ($model is null or model = $model) and ($device is null or device = $device)
      and time >= $since and cast(day as date) >= cast($since as date)
  )
  where c > 0
  group by device, model, release, digest, scale, bucket
)
group by device, model, release, digest, scale
"""

COMPARISON_SUMS = """
select device, model, release, challenger_release, digest, challenger_digest, mode,
       sum(compared), sum(disagreed), sum(skipped), sum(failed), sum(answered), sum(fallbacks),
       sum(distance_sum), sum(distance_count), sum(confidence_sum), sum(confidence_count),
       sum(challenger_confidence_sum), sum(challenger_confidence_count), max(epoch_us(time) + interval_ms * 1000),
       max_by(reason, time) filter (where reason <> '')
from comparisons
where ($model is null or model = $model) and ($device is null or device = $device)
  and time >= $since and cast(day as date) >= cast($since as date)
group by device, model, release, challenger_release, digest, challenger_digest, mode
order by device, model, release, challenger_release, digest, challenger_digest, mode
"""

COMPARISON_LATENCY = """
select device, digest, challenger_digest, mode, WHO_scale, WHO_zero, WHO_count, WHO_min, WHO_max, WHO_offset, WHO_counts
from comparisons
where ($model is null or model = $model) and ($device is null or device = $device)
  and time >= $since and cast(day as date) >= cast($since as date) and WHO_count > 0
"""
"""``WHO`` stands for ``latency``, the champion's, or ``challenger_latency``."""

SAMPLES = """
select device, stream, seq, model, release, digest, epoch_us(time), reason, score, inclusion, request_id, predicted,
       input_datatype, input_shape, input_bytes
from samples
where ($model is null or model = $model) and ($device is null or device = $device)
  and ($reason is null or reason = $reason) and ($release is null or release = $release)
  and time >= $since and cast(day as date) >= cast($since as date)
  and time < $until and cast(day as date) <= cast($until as date)
order by time desc, device, stream, seq desc
limit $limit
"""

TENSORS = """
select device, stream, seq, model, release, digest, epoch_us(time), reason, score, inclusion, request_id, predicted,
       input_datatype, input_shape, input_bytes, input, output_datatype, output_shape, output
from samples
where ($model is null or model = $model) and ($device is null or device = $device)
  and ($reason is null or reason = $reason) and ($release is null or release = $release)
  and time >= $since and cast(day as date) >= cast($since as date)
  and time < $until and cast(day as date) <= cast($until as date)
order by time desc, device, stream, seq desc
limit $limit
"""

SERIES_ROWS = """
create temp table asked as
select epoch_us(time) - (epoch_us(time) - $origin_us) % $bucket_us as start, model, release, digest,
       "count" as answers, errors, OF_sum as total, OF_count as n, OF_zero as zero, OF_min as low, OF_max as high,
       OF_scale as scale, OF_offset as first, OF_counts as counts
from TABLE
where ($model is null or model = $model) BY_DEVICE
  and time >= $since and cast(day as date) >= cast($since as date)
  and time < $until and cast(day as date) <= cast($until as date)
"""
"""``OF_`` stands for the quantity, ``BY_DEVICE`` for a term or nothing."""

SERIES_SUMS = """
select start, model, release, digest, sum(answers), sum(errors), sum(total), sum(n), sum(zero),
       min(low) filter (n > 0), max(high) filter (n > 0)
from asked
group by start, model, release, digest
order by start, model, release, digest
"""

SERIES_BUCKETS = """
select start, model, release, digest, scale, list(bucket), list(number)
from (
  select start, model, release, digest, scale, bucket, sum(c) as number
  from (
    select start, model, release, digest, scale, first + generate_subscripts(counts, 1) - 1 as bucket,
           unnest(counts) as c
    from asked
  )
  where c > 0
  group by start, model, release, digest, scale, bucket
)
group by start, model, release, digest, scale
"""

EVENTS = """
select device, kind, model, release, digest, code, message, epoch_us(time), epoch_us(received)
from events
where ($device is null or device = $device) and ($kind is null or kind = $kind)
order by received desc, device, stream, seq desc
limit $limit
"""

COUNTS = """
with identities as (IDENTITIES)
select count(*), (select count(*) from (select distinct device, stream, seq from identities)),
       (select count(*) from samples)
from identities
"""
"""``IDENTITIES`` stands for those of all tables: each one's ``IDENTITY``, joined by ``union all``."""

IDENTITY = "select device, stream, seq from TABLE"

DOUBLED = "select count(*) - count(distinct (device, stream, seq)) from TABLE"

FOOTER = "select sum(num_rows) from parquet_file_metadata($path)"

_DRIFT_SCOPE = """
from drift_reports
where model = $model and ($device is null or device = $device)
  and time >= $since and cast(day as date) >= cast($since as date)
  and time < $until and cast(day as date) <= cast($until as date)
"""

DRIFT_DEVICES = f"""
select digest, release, device, max_by(state, time), bool_or(state = 'drift'),
       bool_or(json_extract_string(skew, '$.state') = 'skew'), count(*)
{_DRIFT_SCOPE}
group by digest, release, device
order by digest, device
"""

_WITH_COUNTS = f"{_DRIFT_SCOPE} and regexp_matches(signals, '\"counts\":\\[-?[0-9]')"

DRIFT_SIZE = f"select count(*) {_WITH_COUNTS}"

DRIFT_COUNTS = f"select digest, suppressed_below, epsilon, signals {_WITH_COUNTS}"
