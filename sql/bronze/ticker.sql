-- Quotes as they arrived, in lane order: names, types, validity, duplicates. No features.
{{ config(channel="ticker") }}

with arrived as (
    select
        *,
        {{ clock_us() }} as clock_us
    from {{ source("ticker") }}
),

in_span as (
    select
        * exclude (info_json),
        row_number() over (
            partition by
                clock_us, capture_ts, collected_at, timestamp, bid, ask, bid_volume, ask_volume, last, open, high, low,
                close, vwap, base_volume, quote_volume, change, percentage, info_json
            order by segment, position
        ) > 1 as is_duplicate,
        {{ is_price("bid") }} and {{ is_price("ask") }} and coalesce(bid < ask, false) as is_sound
    from arrived
    where {{ in_span("clock_us") }}
),

-- the lane's first valid mid fixes the unit of exact sums; 2**35 times that is the most they can hold
typed as (
    select
        *,
        false as is_context,
        null::bigint as lane_order,
        is_sound and {{ fits_price("bid") }} and {{ fits_price("ask") }}
        and (bid + ask) / 2 <= coalesce({{ bind("price_unit") }}, 1e30) * 1e27 as is_valid
    from in_span
),

with_carried as (
    select * from typed
    {{ carried("bronze.ticker") }}
),

final as (
    select
        * replace (
            coalesce(
                lane_order,
                count(*) filter (where not is_duplicate) over (
                    partition by is_context
                    order by {{ lane_order_of("ticker") }}
                    rows between unbounded preceding and current row
                ) - 1
            ) as lane_order
        )
    from with_carried
)

select * from final
