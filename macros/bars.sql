{# Bars are [start, end), counted from the epoch. #}
{% macro bar_start(clock, seconds) -%} {{ floor_to(clock, seconds * 1000000) }} {%- endmacro %}

{# The rows of a lane and day with the bar each belongs to, in lane order. `held_us`: how long a valid row's value
   holds, to the next valid row of its bar or the bar's end, at most max_staleness. The runner reads hour after hour, each
   in lane order: nothing is sorted then. #}
{% macro rows_of_bars(relation, seconds) -%}
{% set in_order = "()" if var("input_is_ordered") else "(order by clock_us, lane_order)" -%}
select
    *,
    {{ bar_start("clock_us", seconds) }} as bar_start_us,
    bar_start_us + {{ seconds * 1000000 }} as bar_end_us,
    row_number() over {{ in_order }} as ordinal,
    least(
        least(lead(clock_us) over {{ in_order }}, bar_end_us) - clock_us,
        {{ (var("max_staleness") * 1000000) | round | int }}
    ) as held_us
from (
    select
        *,
        epoch_us(clock_ts) as clock_us
    from {{ relation }}
    where is_valid and epoch_us(clock_ts) <= {{ bind("horizon_us") }}
) as valid_rows
{%- endmacro %}

{# A bar is written once any row of the lane has a clock at or after its end; it belongs to the day of its start. #}
{% macro ended_bars(bars, seconds) -%}
select *
from {{ bars }}
where
    bar_start_us >= {{ bind("span_start_us") }}
    and bar_start_us < {{ bind("span_end_us") }}
{% if not var("partial_bars") %}
    and bar_start_us + {{ seconds * 1000000 }} <= {{ bind("horizon_us") }}
{% endif %}
{%- endmacro %}

{% macro bar_columns(seconds) -%}
{{ bind("exchange") }} as exchange,
{{ bind("symbol") }} as symbol,
{{ bind("source_symbol") }} as source_symbol,
year({{ utc("bar_start_us") }})::integer as year,
month({{ utc("bar_start_us") }})::integer as month,
day({{ utc("bar_start_us") }})::integer as day,
{% if var("legacy_aliases") -%}
{{ instant("bar_start_us") }} as capture_ts,
{% endif -%}
{{ instant("bar_start_us") }} as bar_start,
{{ instant("bar_start_us + " ~ seconds * 1000000) }} as bar_end,
{{ seconds }}::integer as bar_duration_sec,
{{ instant("first_us") }} as first_at,
{{ instant("last_us") }} as last_at,
bar_start_us + {{ seconds * 1000000 }} > {{ bind("horizon_us") }} as is_partial
{%- endmacro %}

{# Open, high, low, close of a bar, and its first and last clock. #}
{% macro price_path(price) -%}
min(clock_us) as first_us,
max(clock_us) as last_us,
arg_min({{ price }}, ordinal) as open,
max({{ price }}) as high,
min({{ price }}) as low,
arg_max({{ price }}, ordinal) as close
{%- endmacro %}

{% macro returns_of_path() -%}
close / nullif(open, 0) - 1 as return,
ln(close / nullif(open, 0)) as log_return,
(high - low) / nullif(open, 0) as range
{%- endmacro %}

{# From the rows' own log returns: the first one reaches back to the row before the bar. #}
{% macro volatility_of_rows(log_return) -%}
sum({{ log_return }} * {{ log_return }}) as realized_variance,
var_samp({{ log_return }}) as return_variance
{%- endmacro %}

{% macro annualized(seconds) -%} sqrt(realized_variance * 31536000 / {{ seconds }}) {%- endmacro %}
