{# One clock a lane, in integer microseconds since the epoch: floats cannot hold an order. #}

{# SPEC 4: when we received it, or the exchange's event time unless it is missing or more than a day off.
   Compared in milliseconds on the side of capture_ts, so that no wild event time can overflow. #}
{% macro clock_us() -%}
{% if var("clock") == "event" -%}
case
    when timestamp between ceil((epoch_us(capture_ts) - 86400000000) / 1000)::bigint
    and floor((epoch_us(capture_ts) + 86400000000) / 1000)::bigint then timestamp * 1000
    when collected_at between -62135596800000 and 253402300799999 then collected_at * 1000
    else epoch_us(capture_ts)
end
{%- else -%}
epoch_us(capture_ts)
{%- endif %}
{%- endmacro %}

{# A wall-clock timestamp of a clock, independent of the session's time zone. #}
{% macro utc(clock) -%} make_timestamp({{ clock }}) {%- endmacro %}

{# The same as an instant, for columns that users see. #}
{% macro instant(clock) -%} make_timestamptz({{ clock }}) {%- endmacro %}

{# hour_of_day, day_of_week (Monday is 0) or is_weekend of a clock, in UTC. #}
{% macro time_feature(feature, clock) -%}
{% if feature == "hour_of_day" -%}
hour({{ utc(clock) }})::integer
{%- elif feature == "day_of_week" -%}
(isodow({{ utc(clock) }}) - 1)::integer
{%- else -%}
isodow({{ utc(clock) }}) >= 6
{%- endif %}
{%- endmacro %}

{# The columns that the path of a silver file repeats. #}
{% macro partition_columns(clock) -%}
{{ bind("exchange") }} as exchange,
{{ bind("symbol") }} as symbol,
{{ bind("source_symbol") }} as source_symbol,
year({{ utc(clock) }})::integer as year,
month({{ utc(clock) }})::integer as month,
day({{ utc(clock) }})::integer as day,
hour({{ utc(clock) }})::integer as hour
{%- endmacro %}

{# Lane order is (clock, timestamp, nonce, trade_id, segment, position), NULLs first; ids of digits are numbers and
   come before text. Numbers are compared by length and then digit by digit, so they may be of any length. #}
{% macro lane_order_of(channel) -%}
clock_us,
timestamp nulls first
{%- if channel == "orderbook" %},
nonce nulls first
{%- endif %}
{%- if channel == "trades" %},
case when trade_id is null then 0 when regexp_full_match(trade_id, '[0-9]+') then 1 else 2 end,
case when regexp_full_match(trade_id, '[0-9]+') then length(ltrim(trade_id, '0')) end,
case when regexp_full_match(trade_id, '[0-9]+') then ltrim(trade_id, '0') else trade_id end
{%- endif %},
segment,
position
{%- endmacro %}

{# Rows at or after the span's start and before its end. #}
{% macro in_span(clock) -%}
{{ clock }} >= {{ bind("span_start_us") }} and {{ clock }} < {{ bind("span_end_us") }}
{%- endmacro %}

{# What was carried over from earlier spans of the lane: the rows that this one looks back on, before its own. Nothing
   at a lane's beginning, and nothing in a compiled model, whose span is all that it reads. #}
{% macro carried(relation) -%}
{% if carries(relation) -%}
select * replace (true as is_context)
from {{ carry(relation) }}
union all by name
{% endif -%}
{%- endmacro %}
{% macro carried_count(relation) -%}
{% if carries(relation) %}(select count(*) from {{ carry(relation) }}){% else %}0{% endif %}
{%- endmacro %}

{# The window in which a lane's rows are in lane order. Nothing is sorted where they lie so. #}
{% macro in_lane_order(frame="") -%}
({% if not var("input_is_ordered") %}order by clock_us, lane_order{{ " " if frame }}{% endif %}{{ frame }})
{%- endmacro %}

{# The last multiple of a step at or before a clock. Not //, which goes towards zero: before 1970 that is up. #}
{% macro floor_to(clock, step) -%}
({{ clock }}) - ((({{ clock }}) % {{ step }}) + {{ step }}) % {{ step }}
{%- endmacro %}
