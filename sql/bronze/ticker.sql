-- Quotes as they arrived, in lane order: names, types, validity, duplicates. No features.
{{ config(channel="ticker", price_unit="(bid + ask) / 2") }}

{% set columns -%}
capture_ts, collected_at, timestamp, bid, ask, bid_volume, ask_volume, last, open, high, low, close, vwap, base_volume,
quote_volume, change, percentage, info_json
{%- endset -%}

with arrived as (
    select
        *,
        {{ clock_us() }} as clock_us
    from {{ source("ticker") }} as segments
),

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

-- the lane's first valid mid fixes the unit of exact sums; 2**35 times that is the most they can hold
typed as (
    select
        * exclude (info_json, row_hash),
        false as is_context,
        {{ is_price("bid") }} and {{ is_price("ask") }} and coalesce(bid < ask, false) as is_sound,
        is_sound and {{ fits_price("bid") }} and {{ fits_price("ask") }}
        and (bid + ask) / 2 <= coalesce({{ bind("price_unit") }}, 1e30) * 1e27 as is_valid
    from marked
),

placed as (
    select
        *,
        row_number() over (order by is_duplicate, {{ lane_order_of("ticker") }}) - 1 as lane_order
    from typed
),

final as (
    {{ carried("bronze.ticker") }}
    select * from placed
)

select * from final
