{# What can be summed exactly (SPEC 11.2): prices within 2**+-100, amounts up to 2**50 and what they were exchanged for
   up to 2**90 leave room for 2**24 rows in 127 bits. A row that is sound but beyond is invalid, and counted as an
   overflow. #}
{% macro is_price(x) -%} coalesce(isfinite({{ x }}) and {{ x }} > 0, false) {%- endmacro %}
{% macro is_amount(x) -%} coalesce(isfinite({{ x }}) and {{ x }} >= 0, false) {%- endmacro %}
{% macro fits_price(x) -%} {{ x }} between 7.888609052210118e-31 and 1.2676506002282294e30 {%- endmacro %}
{% macro fits_amount(x) -%} {{ x }} <= 1125899906842624.0 {%- endmacro %}
{% macro fits_counter_amount(x) -%} {{ x }} <= 1.2379400392853803e27 {%- endmacro %}

{# Of a side's prices or sizes, those of levels that are no deletions (SPEC 4). Few books have any. #}
{% macro without_deletions(list, sizes) -%}
case
    when list_contains({{ sizes }}, 0) then list_where({{ list }}, list_transform({{ sizes }}, lambda q: q <> 0))
    else {{ list }}
end
{%- endmacro %}

{# Are a side's prices strictly ordered from best to worst? `wrong` stands between a price and a next one that must not
   follow it. Of prices in order the first and the last say whether all are finite and positive: NaN is greater than
   anything. Columns `<side>_price_L<i>` hold the first levels, the list `<side>_prices` all. #}
{% macro is_ladder(side, wrong, first) -%}
{% set prices = side ~ "_prices" -%}
case
    {% for i in range(first - 1) -%}
when {{ side }}_price_L{{ i }} {{ wrong }} {{ side }}_price_L{{ i + 1 }} then false
    {% endfor -%}
when len({{ prices }}) > {{ first }}
        then len(list_filter(
            list_zip({{ prices }}[{{ first }}:-2], {{ prices }}[{{ first + 1 }}:]), lambda x: x[1] {{ wrong }} x[2]
        )) = 0
    else true
end
{%- endmacro %}

{# Are all of a side's sizes within what can be summed exactly? Sizes that are not negative are at most their sum. #}
{% macro sizes_fit(side, first) -%}
{% set sizes = side ~ "_sizes" -%}
case
    {% for i in range(first) -%}
when {{ side }}_size_L{{ i }} < 7.888609052210118e-31 then false
    {% endfor -%}
when len({{ sizes }}) > {{ first }} and list_min({{ sizes }}) < 7.888609052210118e-31 then false
    when list_sum({{ sizes }}) <= 1125899906842624.0 then true
    else list_max({{ sizes }}) <= 1125899906842624.0
end
{%- endmacro %}

{# Are sizes that do not fit at least finite and not negative? #}
{% macro are_sizes(list) -%}
len(list_filter({{ list }}, lambda q: not isfinite(q) or q < 0)) = 0
{%- endmacro %}
