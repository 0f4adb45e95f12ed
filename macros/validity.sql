{# What can be summed exactly (SPEC 11.2): prices within 2**+-100, amounts up to 2**50 and what they were exchanged for
   up to 2**90 leave room for 2**24 rows in 127 bits. A row that is sound but beyond is invalid, and counted as an
   overflow. #}
{% macro is_price(x) -%} coalesce(isfinite({{ x }}) and {{ x }} > 0, false) {%- endmacro %}
{% macro is_amount(x) -%} coalesce(isfinite({{ x }}) and {{ x }} >= 0, false) {%- endmacro %}
{% macro fits_price(x) -%} {{ x }} between 7.888609052210118e-31 and 1.2676506002282294e30 {%- endmacro %}
{% macro fits_amount(x) -%} {{ x }} <= 1125899906842624.0 {%- endmacro %}
{% macro fits_counter_amount(x) -%} {{ x }} <= 1.2379400392853803e27 {%- endmacro %}

{# Each element of a list with the one after it. #}
{% macro neighbours(list) -%} list_zip({{ list }}[:-2], {{ list }}[2:]) {%- endmacro %}

{# A book is sound if both sides have levels, prices are positive and strictly ordered from best to worst, sizes are
   finite and not negative, and it is not crossed or locked (SPEC 4). #}
{% macro is_book(bid_prices, bid_sizes, ask_prices, ask_sizes) -%}
coalesce(
    len({{ bid_prices }}) > 0
    and len({{ ask_prices }}) > 0
    and len(list_filter({{ bid_prices }}, lambda x: x is null or not isfinite(x) or x <= 0)) = 0
    and len(list_filter({{ ask_prices }}, lambda x: x is null or not isfinite(x) or x <= 0)) = 0
    and len(list_filter({{ bid_sizes }}, lambda x: x is null or not isfinite(x) or x < 0)) = 0
    and len(list_filter({{ ask_sizes }}, lambda x: x is null or not isfinite(x) or x < 0)) = 0
    and {{ bid_prices }}[1] < {{ ask_prices }}[1]
    and len(list_filter({{ neighbours(bid_prices) }}, lambda x: x[1] <= x[2])) = 0
    and len(list_filter({{ neighbours(ask_prices) }}, lambda x: x[1] >= x[2])) = 0,
    false
)
{%- endmacro %}

{% macro fits_book(bid_prices, bid_sizes, ask_prices, ask_sizes) -%}
(
    {{ bid_prices }}[-1] >= 7.888609052210118e-31
    and {{ ask_prices }}[-1] <= 1.2676506002282294e30
    and list_min({{ bid_sizes }}) >= 7.888609052210118e-31
    and list_min({{ ask_sizes }}) >= 7.888609052210118e-31
    and list_max({{ bid_sizes }}) <= 1125899906842624.0
    and list_max({{ ask_sizes }}) <= 1125899906842624.0
)
{%- endmacro %}
