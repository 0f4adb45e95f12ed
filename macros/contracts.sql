{# What an amount is worth, by kind of contract (SPEC 5): a linear one is `contract_size` units of the base, an inverse
   one `contract_size` units of the quote. #}
{% macro dollar_volume(price, amount) -%}
{% if var("contract_kind") == "inverse" -%}
{{ amount }} * {{ double(var("contract_size")) }}
{%- else -%}
{{ price }} * {{ amount }} * {{ double(var("contract_size")) }}
{%- endif %}
{%- endmacro %}

{# Units of the base, so that dollar volume per unit is a price for either kind. #}
{% macro base_volume(price, amount) -%}
{% if var("contract_kind") == "inverse" -%}
{{ amount }} * {{ double(var("contract_size")) }} / {{ price }}
{%- else -%}
{{ amount }} * {{ double(var("contract_size")) }}
{%- endif %}
{%- endmacro %}

{# A literal is a DECIMAL in SQL unless it says otherwise. #}
{% macro double(x) -%} {{ x }}::double {%- endmacro %}
