{# Bars are [start, end), counted from the epoch. #}
{% macro bar_start(clock, seconds) -%} {{ floor_to(clock, seconds * 1000000) }} {%- endmacro %}

{# Bars are made of slices, and a slice of rows: it is the longest part of a minute that divides the duration, so most
   durations share theirs (decision 0023). #}
{% macro slice_sec(seconds) -%}
{% for n in (60, 30, 20, 15, 12, 10, 6, 5, 4, 3, 2, 1) if seconds is divisibleby(n) -%}
{% if loop.first %}{{ n }}{% endif %}
{%- endfor %}
{%- endmacro %}

{# The valid rows of a lane and day in lane order, with the slice that each belongs to. `held_us`: how long its value
   holds, to the next row of the slice, at most max_staleness; how long the last one's holds depends on the bar. No
   row follows the last one, at the end of time: `arg_max` would pass over a NULL. The runner reads hour after hour, each
   in lane order: nothing is sorted then. #}
{% macro rows_of_slices(relation, seconds) -%}
{% set slice_us = slice_sec(seconds) | int * 1000000 -%}
select
    *,
    {{ floor_to("clock_us", slice_us) }} as slice_start_us,
    row_number() over {{ in_lane_order() }} as ordinal,
    lead(clock_us, 1, 9223372036854775807) over {{ in_lane_order() }} as next_us,
    case
        when next_us < slice_start_us + {{ slice_us }} then least(next_us - clock_us, {{ staleness_us() }})
    end as held_us
from (
    select
        *,
        epoch_us(clock_ts) as clock_us
    from {{ relation }}
    where is_valid and epoch_us(clock_ts) <= {{ bind("horizon_us") }}
) as valid_rows
{%- endmacro %}

{# Slices with the bar that each is in. `last_held_us`: how long the slice's last value holds, to the next valid row or
   the bar's end, at most max_staleness. `bar_mean_return`: the mean over the bar's rows; sums of floats depend on their
   order, so the slices' is said. #}
{% macro slices_of_bars(seconds, returns=true) -%}
select
    *,
{% if returns %}
    sum(return_count * mean_return) over in_bar / nullif(sum(return_count) over in_bar, 0) as bar_mean_return,
{% endif %}
    least(next_us, last_us + {{ staleness_us() }}, bar_start_us + {{ seconds * 1000000 }}) - last_us as last_held_us
from (
    select
        *,
        {{ bar_start("slice_start_us", seconds) }} as bar_start_us
    from {{ slices() }}
) as placed
{% if returns %}
window in_bar as (
    partition by bar_start_us order by slice_start_us rows between unbounded preceding and unbounded following
)
{% endif %}
{%- endmacro %}

{% macro staleness_us() -%} {{ (var("max_staleness") * 1000000) | round | int }} {%- endmacro %}

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

{# Open, high, low, close of a slice, its first and last clock, and the clock of the row behind it. #}
{% macro path_of_slice(price) -%}
min(clock_us) as first_us,
max(clock_us) as last_us,
arg_max(next_us, ordinal) as next_us,
arg_min({{ price }}, ordinal) as open,
max({{ price }}) as high,
min({{ price }}) as low,
arg_max({{ price }}, ordinal) as close
{%- endmacro %}

{# The same of a bar. #}
{% macro path_of_bar() -%}
min(first_us) as first_us,
max(last_us) as last_us,
arg_min(open, slice_start_us) as open,
max(high) as high,
min(low) as low,
arg_max(close, slice_start_us) as close
{%- endmacro %}

{# A mean over a bar's rows, NULLs aside, and what a slice keeps of it. #}
{% macro terms_of_mean(x) -%}
sum({{ x }}) as sum_{{ x }},
count({{ x }}) as count_{{ x }}
{%- endmacro %}
{% macro mean(x) -%} sum(sum_{{ x }}) / nullif(sum(count_{{ x }}), 0) {%- endmacro %}

{# A mean weighted by how long each value holds, likewise. #}
{% macro terms_of_held_mean(x) -%}
sum({{ x }} * held_us) as held_{{ x }},
arg_max({{ x }}, ordinal) as last_{{ x }}
{%- endmacro %}
{% macro held_mean(x) -%}
sum(coalesce(held_{{ x }}, 0) + last_{{ x }} * last_held_us) / nullif(sum(coalesce(held_us, 0) + last_held_us), 0)
{%- endmacro %}

{% macro returns_of_path() -%}
close / nullif(open, 0) - 1 as return,
ln(close / nullif(open, 0)) as log_return,
(high - low) / nullif(open, 0) as range
{%- endmacro %}

{# From the rows' own log returns: the first one reaches back to the row before the bar. #}
{% macro terms_of_volatility() -%}
sum(log_return * log_return) as realized_variance,
count(log_return) as return_count,
avg(log_return) as mean_return,
var_samp(log_return) as return_variance
{%- endmacro %}

{# The sample variance of a whole from those of its parts (Chan, Golub, LeVeque 1983): what each has around its own
   mean, and the means around the mean of the whole. #}
{% macro volatility_of_bar() -%}
sum(realized_variance) as realized_variance,
sum(
    coalesce((return_count - 1) * return_variance, 0) + return_count * (mean_return - bar_mean_return) ** 2
) / nullif(sum(return_count) - 1, 0) as return_variance
{%- endmacro %}

{% macro annualized(seconds) -%} sqrt(realized_variance * 31536000 / {{ seconds }}) {%- endmacro %}
