{# What can be summed exactly (SPEC 11.2): prices within 2**+-100 and amounts up to 2**50 leave room for 2**23 rows an
   hour in 127 bits. A row that is sound but beyond is invalid, and counted as an overflow. #}
{% macro is_price(x) -%} coalesce(isfinite({{ x }}) and {{ x }} > 0, false) {%- endmacro %}
{% macro is_amount(x) -%} coalesce(isfinite({{ x }}) and {{ x }} >= 0, false) {%- endmacro %}
{% macro fits_price(x) -%} {{ x }} between 7.888609052210118e-31 and 1.2676506002282294e30 {%- endmacro %}
{% macro fits_amount(x) -%} {{ x }} <= 1125899906842624.0 {%- endmacro %}

{# A book is sound if both sides have levels, prices are positive and strictly ordered from best to worst, sizes are
   finite and not negative, and it is not crossed or locked (SPEC 4). A reduction that loses its order ends in -1
   (bids) or infinity (asks), from which nothing leads back. #}
{% macro is_book(bid_prices, bid_sizes, ask_prices, ask_sizes) -%}
coalesce(
    len({{ bid_prices }}) > 0
    and len({{ ask_prices }}) > 0
    and len(list_filter({{ bid_prices }}, lambda x: x is null or not isfinite(x) or x <= 0)) = 0
    and len(list_filter({{ ask_prices }}, lambda x: x is null or not isfinite(x) or x <= 0)) = 0
    and len(list_filter({{ bid_sizes }}, lambda x: x is null or not isfinite(x) or x < 0)) = 0
    and len(list_filter({{ ask_sizes }}, lambda x: x is null or not isfinite(x) or x < 0)) = 0
    and {{ bid_prices }}[1] < {{ ask_prices }}[1]
    and list_reduce({{ bid_prices }}, lambda a, x: case when x < a then x else -1 end, 'infinity'::double) > 0
    and isfinite(list_reduce({{ ask_prices }}, lambda a, x: case when x > a then x else 'infinity'::double end, 0::double)),
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
