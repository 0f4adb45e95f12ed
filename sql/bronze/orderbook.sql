-- Order book snapshots as they arrived, in lane order: names, types, validity, duplicates. No features.
-- Levels of size 0 are deletions and are taken out first; an invalid book has no levels.
{{ config(channel="orderbook") }}

with arrived as (
    select
        *,
        {{ clock_us() }} as clock_us
    from {{ source("orderbook") }}
),

in_span as (
    select
        *,
        list_filter(bids, lambda x: x.size is distinct from 0) as bid_levels,
        list_filter(asks, lambda x: x.size is distinct from 0) as ask_levels,
        {% if var("input_is_ordered") -%}
        false as is_duplicate
        {%- else -%}
        row_number() over (
            partition by clock_us, timestamp, nonce, capture_ts, collected_at, bids, asks
            order by segment, position
        ) > 1 as is_duplicate
        {%- endif %}
    from arrived
    where {{ in_span("clock_us") }}
),

sides as (
    select
        * exclude (bids, asks, bid_levels, ask_levels),
        list_transform(bid_levels, lambda x: x.price) as bid_prices,
        list_transform(bid_levels, lambda x: x.size) as bid_sizes,
        list_transform(ask_levels, lambda x: x.price) as ask_prices,
        list_transform(ask_levels, lambda x: x.size) as ask_sizes
    from in_span
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
        count(*) filter (where not is_duplicate) over (
            order by {{ lane_order_of("orderbook") }} rows between unbounded preceding and current row
        ) - 1 as lane_order
        {%- endif %}
    from judged
),

final as (
    select * from placed
    {{ carried("bronze.orderbook") }}
)

select * from final
