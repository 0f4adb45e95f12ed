{# Window sums are differences of exact running sums (SPEC 11.2): float windows depend on where the input begins, RANGE
   frames of sums are ten times slower, and a frame up to the current row would take in later rows of the same clock value. #}

{# A term, rounded once to a whole number of units; a row without one adds nothing. #}
{% macro units(x, per_unit) -%} coalesce(round({{ x }} * {{ double(per_unit) }})::hugeint, 0) {%- endmacro %}

{# The running sum of a term in lane order. #}
{% macro running(x) -%}
sum({{ x }}) over {{ in_lane_order("rows between unbounded preceding and current row") }}
{%- endmacro %}

{# The running count of rows of which something is true. #}
{% macro running_count(x) -%} ({{ running("(" ~ x ~ ")::bigint") }})::bigint {%- endmacro %}

{# Is a row the last of its clock value? Its running sums are those that a window's edge looks for. #}
{% macro is_edge() -%} coalesce(clock_us <> lead(clock_us) over {{ in_lane_order() }}, true) {%- endmacro %}

{# The windows of running sums, in long form: one row for each valid row and window, `asked`, with the sums at the row,
   `own`, and at the window's edge, `edge`. All windows share one ASOF JOIN, and only numbers pass through it: one join a
   window, over whole rows, took 12 to 80 times the memory (decision 0003). `running` has clock_us, lane_order, is_context,
   is_valid and is_edge, and is materialized, since it is read three times; `edges` are its rows with is_edge. #}
{% macro windows_of(running, edges, windows) -%}
(
    select
        lane_order,
        seconds,
        clock_us - (seconds * 1000000::bigint)::bigint as edge_us
    from {{ running }}
    cross join unnest([{{ windows | join(", ") }}]) as windows (seconds)
    where is_valid and not is_context
) as asked
asof left join {{ edges }} as edge on asked.edge_us >= edge.clock_us
inner join {{ running }} as own on asked.lane_order = own.lane_order and not own.is_context
{%- endmacro %}

{# A window's sum, over what `windows_of` found. #}
{% macro in_window(column) -%} (own.{{ column }} - coalesce(edge.{{ column }}, 0)) {%- endmacro %}

{# From long form back to one row a row: the column `<name>_<seconds>s` of each window. #}
{% macro one_row_each(features, names, windows) -%}
select
{% for h in windows -%}
{% for name in names -%}
max({{ name }}) filter (where seconds = {{ h }}) as {{ name }}_{{ h }}s,
{% endfor -%}
{% endfor -%}
lane_order
from {{ features }}
group by lane_order
{%- endmacro %}

{# For what has no natural scale, such as price * amount: one unit suits BTC and destroys SHIB, and one that follows the
   lane's first price fails when a coin loses all it had. So a term is two whole numbers: `upper` counts 1 / per_unit,
   `lower` what is left in 2**-100 of that, where it is rounded, once. Scaling by a power of two loses nothing, nor does
   trunc. 2**24 terms below 2**102 / per_unit fit; what is at least 2**-48 / per_unit is exact. #}
{% macro running_limbs(name, x, per_unit) -%}
{% set scaled = "(" ~ x ~ ") * " ~ double(per_unit) -%}
{{ running("coalesce(trunc(" ~ scaled ~ ")::hugeint, 0)") }} as {{ name }}_upper,
{{ running("coalesce(round((" ~ scaled ~ " - trunc(" ~ scaled ~ ")) * " ~ double(2 ** 100) ~ ")::hugeint, 0)") }}
    as {{ name }}_lower
{%- endmacro %}

{# A window's sum of such terms: rounded to a double here, and not before. #}
{% macro limbs_in_window(name, per_unit) -%}
({{ in_window(name ~ "_upper") }}::double + {{ in_window(name ~ "_lower") }}::double / {{ double(2 ** 100) }})
/ {{ double(per_unit) }}
{%- endmacro %}

{# Sample variance, in squared units, of whole numbers x = hi * 2**40 + lo. x * x does not fit 128 bits over a window,
   so the sums are kept in two limbs and centred here on a whole number `mean_hi`, `mean_lo` near the mean, where they
   do; `rest` is what the sum of x differs from n times that. Only a huge spread (beyond 2**45 in the upper limb) is
   added up in double: there is nothing left to cancel then. Columns: n, sum_hi, sum_lo, sum_hi_hi, sum_hi_lo,
   sum_lo_lo; hi_hi, hi_lo, lo_lo are the centred sums. #}
{% macro centred_hi_hi() -%} sum_hi_hi - mean_hi * (2 * sum_hi - n * mean_hi) {%- endmacro %}
{% macro centred_hi_lo() -%} sum_hi_lo - mean_hi * sum_lo - mean_lo * (sum_hi - n * mean_hi) {%- endmacro %}
{% macro centred_lo_lo() -%} sum_lo_lo - mean_lo * (2 * sum_lo - n * mean_lo) {%- endmacro %}
{% macro exact_variance() -%}
case
    when n < 2 then null
    when hi_hi < 35184372088832 then
        greatest(
            (hi_hi * 1208925819614629174706176 + hi_lo * 2199023255552 + lo_lo)::double - rest * rest / n,
            0
        ) / (n - 1)
    else
        (hi_hi::double * 1208925819614629174706176.0 + hi_lo::double * 2199023255552.0 + lo_lo::double) / (n - 1)
end
{%- endmacro %}
