-- Quotes with mid, spread and their rolling means and deviations.
-- Grain: one row a quote that is no duplicate, in lane order; an invalid one has no features.
{{ config(
    channel="ticker",
    partition="hour",
    keeps_order=true,
    context={"bronze.ticker": var("rolling_windows") | max},
    price_unit="(bid + ask) / 2"
) }}

{% set columns = ("mid_price_mean", "mid_price_std", "spread_mean", "vol_imbalance_mean") -%}

with quotes as (
    select * from {{ ref("bronze.ticker") }}
    where not is_duplicate
),

features as not materialized (
    select
        *,
        case when is_valid then (bid + ask) / 2 end as mid_price,
        case when is_valid then ask - bid end as spread,
        spread / nullif(mid_price, 0) as relative_spread,
        case
            when
                is_valid
                and {{ is_amount("bid_volume") }}
                and {{ is_amount("ask_volume") }}
                and isfinite(bid_volume + ask_volume)
                then (bid_volume - ask_volume) / nullif(bid_volume + ask_volume, 0)
        end as volume_imbalance
    from quotes
),

-- prices in units that are fixed at the lane's first valid row, in two limbs so that their squares fit
whole as (
    select
        clock_us,
        lane_order,
        is_context,
        is_valid,
        spread,
        volume_imbalance,
        round(mid_price / {{ bind("price_unit") }})::hugeint as mid_units,
        mid_units >> 40 as hi,
        mid_units & 1099511627775 as lo
    from features
),

running as materialized (
    select
        clock_us,
        lane_order,
        is_context,
        is_valid,
        {{ is_edge() }} as is_edge,
        {{ running_count("is_valid") }} as quote_count,
        {{ running("coalesce(hi, 0)") }} as sum_hi,
        {{ running("coalesce(lo, 0)") }} as sum_lo,
        {{ running("coalesce(hi * hi, 0)") }} as sum_hi_hi,
        {{ running("coalesce(hi * lo, 0)") }} as sum_hi_lo,
        {{ running("coalesce(lo * lo, 0)") }} as sum_lo_lo,
        {{ running(units("spread / " ~ bind("price_unit"), "1024")) }} as spread_units,
        {{ running(units("volume_imbalance", "1152921504606846976")) }} as imbalance_units,
        {{ running_count("volume_imbalance is not null") }} as imbalance_count
    from whole
),

edges as (
    select * from running
    where is_edge
),

within as (
    select
        asked.lane_order,
        asked.seconds,
        {{ in_window("quote_count") }} as n,
        {{ in_window("sum_hi") }} as sum_hi,
        {{ in_window("sum_lo") }} as sum_lo,
        {{ in_window("sum_hi_hi") }} as sum_hi_hi,
        {{ in_window("sum_hi_lo") }} as sum_hi_lo,
        {{ in_window("sum_lo_lo") }} as sum_lo_lo,
        {{ in_window("spread_units") }} as spread_units,
        {{ in_window("imbalance_units") }} as imbalance_units,
        {{ in_window("imbalance_count") }} as imbalance_count
    from {{ windows_of("running", "edges", var("rolling_windows")) }}
),

centred as (
    select
        *,
        sum_hi * 1099511627776 + sum_lo as mid_units,
        round(mid_units::double / n)::hugeint as mean,
        mean >> 40 as mean_hi,
        mean & 1099511627775 as mean_lo,
        (mid_units - n * mean)::double as rest,
        {{ centred_hi_hi() }} as hi_hi,
        {{ centred_hi_lo() }} as hi_lo,
        {{ centred_lo_lo() }} as lo_lo
    from within
),

rolling as (
    select
        lane_order,
        seconds,
        mid_units::double / n * {{ bind("price_unit") }} as mid_price_mean,
        sqrt({{ exact_variance() }}) * {{ bind("price_unit") }} as mid_price_std,
        spread_units::double / 1024 / n * {{ bind("price_unit") }} as spread_mean,
        imbalance_units::double / 1152921504606846976.0 / nullif(imbalance_count, 0) as vol_imbalance_mean
    from centred
),

windows as (
    {{ one_row_each("rolling", columns, var("rolling_windows")) }}
),

joined as (
    select
        features.*,
        windows.* exclude (windows.lane_order)
    from features
    left join windows on features.lane_order = windows.lane_order
    where not features.is_context
),

final as (
    select
        {{ partition_columns("clock_us") }},
        collected_at,
        capture_ts,
        timestamp,
        bid,
        ask,
        bid_volume,
        ask_volume,
        last,
        open,
        high,
        low,
        close,
        vwap,
        base_volume,
        quote_volume,
        change,
        percentage,
        {{ instant("clock_us") }} as clock_ts,
        lane_order,
        is_valid,
        mid_price,
        spread,
        relative_spread,
        volume_imbalance,
        case when is_valid then {{ time_feature("hour_of_day", "clock_us") }} end as hour_of_day,
        case when is_valid then {{ time_feature("day_of_week", "clock_us") }} end as day_of_week,
        case when is_valid then {{ time_feature("is_weekend", "clock_us") }} end as is_weekend,
        columns('_[0-9]+s$')
    from joined
    order by lane_order
)

select * from final
