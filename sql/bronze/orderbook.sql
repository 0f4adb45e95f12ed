-- Order book snapshots as they arrived, in lane order: names, types, validity, duplicates. No features.
-- Levels of size 0 are deletions and are taken out first; an invalid book has no levels.
{{ config(channel="orderbook") }}

{% set columns = "capture_ts, collected_at, timestamp, nonce, bids, asks" -%}

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

cleaned as (
    select
        * exclude (bids, asks, row_hash),
        list_filter(bids, lambda x: x['size'] is distinct from 0) as bid_levels,
        list_filter(asks, lambda x: x['size'] is distinct from 0) as ask_levels
    from marked
),

sides as (
    select
        * exclude (bid_levels, ask_levels),
        list_transform(bid_levels, lambda x: x['price']) as bid_prices,
        list_transform(bid_levels, lambda x: x['size']) as bid_sizes,
        list_transform(ask_levels, lambda x: x['price']) as ask_prices,
        list_transform(ask_levels, lambda x: x['size']) as ask_sizes
    from cleaned
),

judged as (
    select
        *,
        {{ is_book("bid_prices", "bid_sizes", "ask_prices", "ask_sizes") }} as is_sound,
        is_sound and {{ fits_book("bid_prices", "bid_sizes", "ask_prices", "ask_sizes") }} as is_valid
    from sides
),

placed as (
    select
        * exclude (bid_prices, bid_sizes, ask_prices, ask_sizes),
        false as is_context,
        case when is_valid then bid_prices end as bid_prices,
        case when is_valid then bid_sizes end as bid_sizes,
        case when is_valid then ask_prices end as ask_prices,
        case when is_valid then ask_sizes end as ask_sizes,
        case when is_valid then (bid_prices[1] + ask_prices[1]) / 2 end as mid_price,
        {% if var("input_is_ordered") -%}
        row_number() over () - 1 as lane_order
        {%- else -%}
        row_number() over (partition by is_duplicate order by {{ lane_order_of("orderbook") }}) - 1 as lane_order
        {%- endif %}
    from judged
),

final as (
    select * from placed
    {{ carried("bronze.orderbook") }}
)

select * from final
