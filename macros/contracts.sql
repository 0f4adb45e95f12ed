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

{# What an amount was exchanged for, before contract_size: `price * amount` of a linear contract, `amount / price` of an
   inverse one. With it and the amounts, sums of dollars and of base are one multiplication away. #}
{% macro counter_amount(price, amount) -%}
{% if var("contract_kind") == "inverse" -%} {{ amount }} / {{ price }}
{%- else -%} {{ price }} * {{ amount }}
{%- endif %}
{%- endmacro %}

{# The dollar volume of sums of amounts and of counter amounts. #}
{% macro dollars_of(amount, counter) -%}
{{ amount if var("contract_kind") == "inverse" else counter }} * {{ double(var("contract_size")) }}
{%- endmacro %}

{# Dollar volume per unit of the base, of the same sums: contract_size cancels. #}
{% macro vwap_of(amount, counter) -%}
{% if var("contract_kind") == "inverse" -%}
{{ amount }} / nullif({{ counter }}, 0)
{%- else -%}
{{ counter }} / nullif({{ amount }}, 0)
{%- endif %}
{%- endmacro %}

{# A literal is a DECIMAL in SQL unless it says otherwise. #}
{% macro double(x) -%} {{ x }}::double {%- endmacro %}
