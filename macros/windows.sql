{# Window sums are differences of exact running sums (SPEC 11.2): float windows depend on where the input begins, RANGE
   frames of sums are ten times slower, and a frame up to the current row would take in later rows of the same clock value. #}

{# A term, rounded once to a whole number of units; a row without one adds nothing. #}
{% macro units(x, per_unit) -%} coalesce(round({{ x }} * {{ double(per_unit) }})::hugeint, 0) {%- endmacro %}

{# The running sum of a term in lane order. #}
{% macro running(x) -%}
sum({{ x }}) over (order by clock_us, lane_order rows between unbounded preceding and current row)
{%- endmacro %}

{# A window's sum in units: `alias` is what `join_windows` found. #}
{% macro in_window(column, alias) -%} (r.{{ column }} - coalesce({{ alias }}.{{ column }}, 0)) {%- endmacro %}

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
{% macro limbs_in_window(name, alias, per_unit) -%}
({{ in_window(name ~ "_upper", alias) }}::double + {{ in_window(name ~ "_lower", alias) }}::double / {{ double(2 ** 100) }})
/ {{ double(per_unit) }}
{%- endmacro %}

{# The windows' ASOF JOINs: `edges` holds the running sums at the last row of each clock value. #}
{% macro join_windows(edges, windows) -%}
{% for h in windows -%}
asof left join {{ edges }} as w{{ h }} on r.clock_us - {{ (h * 1000000) | round | int }} >= w{{ h }}.clock_us
{% endfor -%}
{%- endmacro %}

{# Sample variance, in squared units, of whole numbers x = hi * 2**40 + lo. x * x does not fit 128 bits over a window,
   so the sums are kept in two limbs and centred here on a whole number `mean_hi`, `mean_lo` near the mean, where they
   do; `rest` is what the sum of x differs from n times that. Only a huge spread (beyond 2**45 in the upper limb) is
   added up in double: there is nothing left to cancel then. Columns: n, sum_hi, sum_lo, sum_hi_hi, sum_hi_lo,
   sum_lo_lo, each with the suffix. #}
{% macro centred_hi_hi(x) -%}
sum_hi_hi{{ x }} - 2 * mean_hi{{ x }} * sum_hi{{ x }} + n{{ x }} * mean_hi{{ x }} * mean_hi{{ x }}
{%- endmacro %}
{% macro centred_hi_lo(x) -%}
sum_hi_lo{{ x }} - mean_hi{{ x }} * sum_lo{{ x }} - mean_lo{{ x }} * sum_hi{{ x }} + n{{ x }} * mean_hi{{ x }} * mean_lo{{ x }}
{%- endmacro %}
{% macro centred_lo_lo(x) -%}
sum_lo_lo{{ x }} - 2 * mean_lo{{ x }} * sum_lo{{ x }} + n{{ x }} * mean_lo{{ x }} * mean_lo{{ x }}
{%- endmacro %}
{% macro exact_variance(x) -%}
case
    when n{{ x }} < 2 then null
    when hi_hi{{ x }} < 35184372088832 then
        greatest(
            (hi_hi{{ x }} * 1208925819614629174706176 + hi_lo{{ x }} * 2199023255552 + lo_lo{{ x }})::double
            - rest{{ x }} * rest{{ x }} / n{{ x }},
            0
        ) / (n{{ x }} - 1)
    else
        (
            hi_hi{{ x }}::double * 1208925819614629174706176.0 + hi_lo{{ x }}::double * 2199023255552.0
            + lo_lo{{ x }}::double
        ) / (n{{ x }} - 1)
end
{%- endmacro %}
