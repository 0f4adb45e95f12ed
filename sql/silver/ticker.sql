-- Quotes with mid, spread and their rolling means and deviations.
-- Grain: one row a quote that is no duplicate, in lane order; an invalid one has no features.
{{ config(
    channel="ticker",
    partition="hour",
    context={"bronze.ticker": var("rolling_windows") | max},
    price_unit="(bid + ask) / 2"
) }}

with quotes as (
    select * from {{ ref("bronze.ticker") }}
    where not is_duplicate
),

features as (
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
        end as volume_imbalance,
        lead(clock_us) over (order by clock_us, lane_order) as next_clock_us
    from quotes
),

-- prices in units that are fixed at the lane's first valid row, in two limbs so that their squares fit
whole as (
    select
        *,
        round(mid_price / {{ bind("price_unit") }})::hugeint as mid_units,
        mid_units >> 40 as hi,
        mid_units & 1099511627775 as lo
    from features
),

running as (
    select
        *,
        {{ running("is_valid::bigint") }} as quote_count,
        {{ running("coalesce(hi, 0)") }} as sum_hi,
        {{ running("coalesce(lo, 0)") }} as sum_lo,
        {{ running("coalesce(hi * hi, 0)") }} as sum_hi_hi,
        {{ running("coalesce(hi * lo, 0)") }} as sum_hi_lo,
        {{ running("coalesce(lo * lo, 0)") }} as sum_lo_lo,
        {{ running(units("spread / " ~ bind("price_unit"), "1024")) }} as spread_units,
        {{ running(units("volume_imbalance", "1152921504606846976")) }} as imbalance_units,
        {{ running("(volume_imbalance is not null)::bigint") }} as imbalance_count
    from whole
),

edges as materialized (
    select
        clock_us,
        quote_count,
        sum_hi,
        sum_lo,
        sum_hi_hi,
        sum_hi_lo,
        sum_lo_lo,
        spread_units,
        imbalance_units,
        imbalance_count
    from running
    where clock_us is distinct from next_clock_us
),

windowed as (
    select
        r.*,
        {%- for h in var("rolling_windows") %}
        {{ in_window("quote_count", "w" ~ h) }} as n_{{ h }},
        {%- for column in ("sum_hi", "sum_lo", "sum_hi_hi", "sum_hi_lo", "sum_lo_lo", "spread_units", "imbalance_units",
                           "imbalance_count") %}
        {{ in_window(column, "w" ~ h) }} as {{ column }}_{{ h }},
        {%- endfor %}
        imbalance_units_{{ h }}::double / 1152921504606846976.0 as imbalance_{{ h }},
        sum_hi_{{ h }} * 1099511627776 + sum_lo_{{ h }} as sum_{{ h }},
        round(sum_{{ h }}::double / nullif(n_{{ h }}, 0))::hugeint as mean_{{ h }},
        mean_{{ h }} >> 40 as mean_hi_{{ h }},
        mean_{{ h }} & 1099511627775 as mean_lo_{{ h }},
        (sum_{{ h }} - n_{{ h }} * mean_{{ h }})::double as rest_{{ h }}
        {%- if not loop.last %},{% endif %}
        {%- endfor %}
    from running as r
    {{ join_windows("edges", var("rolling_windows")) }}
    where r.is_valid and not r.is_context
),

centred as (
    select
        *,
        {%- for h in var("rolling_windows") %}
        {{ centred_hi_hi("_" ~ h) }} as hi_hi_{{ h }},
        {{ centred_hi_lo("_" ~ h) }} as hi_lo_{{ h }},
        {{ centred_lo_lo("_" ~ h) }} as lo_lo_{{ h }}
        {%- if not loop.last %},{% endif %}
        {%- endfor %}
    from windowed
    union all by name
    select * from running
    where not is_valid and not is_context
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
        {%- for h in var("rolling_windows") %}
        sum_{{ h }}::double / n_{{ h }} * {{ bind("price_unit") }} as mid_price_mean_{{ h }}s,
        sqrt({{ exact_variance("_" ~ h) }}) * {{ bind("price_unit") }} as mid_price_std_{{ h }}s,
        spread_units_{{ h }}::double / 1024 / n_{{ h }} * {{ bind("price_unit") }} as spread_mean_{{ h }}s,
        imbalance_{{ h }} / nullif(imbalance_count_{{ h }}, 0) as vol_imbalance_mean_{{ h }}s
        {%- if not loop.last %},{% endif %}
        {%- endfor %}
    from centred
    order by clock_us, lane_order
)

select * from final
