-- Order book snapshots as they arrived, in lane order: names, types, validity, duplicates. No features.
-- Levels of size 0 are deletions and are taken out first; an invalid book has no levels.
{{ config(channel="orderbook") }}

{% set columns = "capture_ts, collected_at, timestamp, nonce, bids, asks" -%}
{% set sides = ("bid", "ask") -%}
{% set first = 20 -%}  {#- levels that are judged as columns, whatever `levels` is; deeper ones are judged as lists #}

with arrived as (
    select
        *,
        {{ clock_us() }} as clock_us
    from {{ source("orderbook") }} as segments
),

{% if var("input_is_ordered") -%}
marked as (
    select
        *,
        null as row_hash,
        false as is_duplicate
    from arrived
    where {{ in_span("clock_us") }}
),
{%- else -%}
in_span as (
    select
        *,
        hash({{ columns }}) as row_hash
    from arrived
    where {{ in_span("clock_us") }}
),

copies as (
    {{ copies_of("in_span", columns) }}
),

marked as (
    select
        in_span.*,
        copies.position is not null as is_duplicate
    from in_span
    left join copies on in_span.segment = copies.segment and in_span.position = copies.position
),
{%- endif %}

-- each side as lists of prices and sizes. NaN stands for a missing number: its book is invalid all the same, and
-- list_inner_product takes no NULL, not even in a list of another row
split as (
    select
        * exclude (bids, asks, row_hash),
        list_transform(bids, lambda x: coalesce(x['price'], 'nan'::double)) as all_bid_prices,
        list_transform(bids, lambda x: coalesce(x['size'], 'nan'::double)) as all_bid_sizes,
        list_transform(asks, lambda x: coalesce(x['price'], 'nan'::double)) as all_ask_prices,
        list_transform(asks, lambda x: coalesce(x['size'], 'nan'::double)) as all_ask_sizes
    from marked
),

sides as (
    select
        * exclude (all_bid_prices, all_bid_sizes, all_ask_prices, all_ask_sizes),
        {{ without_deletions("all_bid_prices", "all_bid_sizes") }} as bid_prices,
        {{ without_deletions("all_bid_sizes", "all_bid_sizes") }} as bid_sizes,
        {{ without_deletions("all_ask_prices", "all_ask_sizes") }} as ask_prices,
        {{ without_deletions("all_ask_sizes", "all_ask_sizes") }} as ask_sizes
    from split
),

-- the first levels as columns: judged one by one they take a fifth of the time of a function over a list
leveled as (
    select
        *
        {%- for side in sides %}{% for i in range(first) %},
        {{ side }}_prices[{{ i + 1 }}] as {{ side }}_price_L{{ i }},
        {{ side }}_sizes[{{ i + 1 }}] as {{ side }}_size_L{{ i }}
        {%- endfor %}{% endfor %}
    from sides
),

judged as (
    select
        *,
        {{ is_ladder("bid", "<=", first) }}
        and {{ is_ladder("ask", ">=", first) }}
        and coalesce(bid_prices[1] < ask_prices[1] and bid_prices[-1] > 0 and isfinite(ask_prices[-1]), false)
            as has_sound_prices,
        {{ sizes_fit("bid", first) }} and {{ sizes_fit("ask", first) }} as has_fitting_sizes,
        case
            when not has_sound_prices then false
            when has_fitting_sizes then true
            else {{ are_sizes("bid_sizes") }} and {{ are_sizes("ask_sizes") }}
        end as is_sound,
        has_sound_prices
        and has_fitting_sizes
        and {{ fits_price("bid_prices[-1]") }}
        and {{ fits_price("ask_prices[-1]") }} as is_valid
    from leveled
),

-- before lane order: what a model does not take, such as the lists, is then not sorted with the rest
valued as (
    select
        collected_at,
        capture_ts,
        timestamp,
        nonce,
        segment,
        position,
        clock_us,
        is_duplicate,
        is_sound,
        is_valid,
        false as is_context,
        case when is_valid then bid_prices end as bid_prices,
        case when is_valid then bid_sizes end as bid_sizes,
        case when is_valid then ask_prices end as ask_prices,
        case when is_valid then ask_sizes end as ask_sizes,
        case when is_valid then (bid_prices[1] + ask_prices[1]) / 2 end as mid_price
    from judged
),

placed as (
    select
        *,
        {% if var("input_is_ordered") -%}
        row_number() over () - 1 as lane_order
        {%- else -%}
        row_number() over (order by is_duplicate, {{ lane_order_of("orderbook") }}) - 1 as lane_order
        {%- endif %}
    from valued
),

final as (
    {{ carried("bronze.orderbook") }}
    select * from placed
)

select * from final
