-- Trades with what a trader knew at each: the mid before it, and rolling volume, price and variance.
-- Grain: one row a trade that is no duplicate, in lane order; an invalid one has no features.
{{ config(
    channel="trades",
    partition="hour",
    context={
        "bronze.trades": [var("rolling_windows") | max, var("trade_dedupe_window")] | max,
        "bronze.orderbook": 0,
    }
) }}

with trades as (
    select * from {{ ref("bronze.trades") }}
    where not is_duplicate
),

-- one mid for each clock value: that of its last valid book
mids as (
    select
        clock_us,
        arg_max(mid_price, lane_order) as mid_price
    from {{ ref("bronze.orderbook") }}
    where is_valid and not is_duplicate
    group by clock_us
),

priced as (
    select
        *,
        case when is_valid then price end as valid_price,
        case when is_valid then {{ dollar_volume("price", "amount") }} end as dollar_volume
    from trades
),

with_returns as (
    select
        *,
        ln(valid_price / last_value(valid_price ignore nulls) over (
            order by clock_us, lane_order rows between unbounded preceding and 1 preceding
        )) as log_return,
        lead(clock_us) over (order by clock_us, lane_order) as next_clock_us
    from priced
),

running as (
    select
        *,
        {{ running(units("case when is_valid then amount end", "1e15")) }} as volume_units,
        {{ running(units("dollar_volume", "1e16")) }} as dollar_units,
        {{ running(units("case when is_valid then " ~ base_volume("price", "amount") ~ " end", "1e15")) }}
            as base_units,
        {{ running(units("log_return * log_return", "309485009821345068724781056")) }} as square_units,
        {{ running("is_valid::bigint") }} as trade_count,
        {{ running("(is_valid and direction <> 0)::bigint") }} as known_count,
        {{ running("(is_valid and direction > 0)::bigint") }} as buy_count,
        {{ running("(log_return is not null)::bigint") }} as return_count
    from with_returns
),

edges as materialized (
    select
        clock_us,
        volume_units,
        dollar_units,
        base_units,
        square_units,
        trade_count,
        known_count,
        buy_count,
        return_count
    from running
    where clock_us is distinct from next_clock_us
),

with_mids as (
    select
        running.*,
        case
            when
                running.is_valid
                and running.clock_us - mids.clock_us <= {{ (var("max_staleness") * 1000000) | round | int }}
                then mids.mid_price
        end as mid_before
    from running
    asof left join mids on running.clock_us > mids.clock_us
    where not running.is_context
),

final as (
    select
        {{ partition_columns("r.clock_us") }},
        r.collected_at,
        r.capture_ts,
        r.timestamp,
        r.trade_id,
        r.side,
        r.price,
        r.amount,
        r.cost,
        {{ instant("r.clock_us") }} as clock_ts,
        r.lane_order,
        r.is_valid,
        case when r.is_valid and r.direction <> 0 then r.direction > 0 end as is_buy,
        r.dollar_volume,
        case when r.is_valid and r.direction <> 0 then r.direction * r.amount end as signed_volume,
        r.log_return,
        case when r.is_valid then {{ time_feature("hour_of_day", "r.clock_us") }} end as hour_of_day,
        case when r.is_valid then {{ time_feature("day_of_week", "r.clock_us") }} end as day_of_week,
        case when r.is_valid then {{ time_feature("is_weekend", "r.clock_us") }} end as is_weekend,
        r.mid_before,
        2 * abs(r.price - r.mid_before) / r.mid_before as effective_spread,
        {%- for h in var("rolling_windows") %}
        {%- set w = "w" ~ h %}
        case
            when r.is_valid
                then ({{ in_window("dollar_units", w) }} / 1e16) / nullif({{ in_window("base_units", w) }} / 1e15, 0)
        end as vwap_{{ h }}s,
        case when r.is_valid then {{ in_window("volume_units", w) }} / 1e15 end as volume_{{ h }}s,
        case when r.is_valid then {{ in_window("dollar_units", w) }} / 1e16 end as dollar_volume_{{ h }}s,
        case when r.is_valid then {{ in_window("trade_count", w) }}::bigint end as trade_count_{{ h }}s,
        case
            when r.is_valid
                then {{ in_window("buy_count", w) }}::double / nullif({{ in_window("known_count", w) }}, 0)
        end as buy_ratio_{{ h }}s,
        case
            when r.is_valid and {{ in_window("return_count", w) }} > 0
                then {{ in_window("square_units", w) }}::double / 309485009821345068724781056
        end as realized_var_{{ h }}s
        {%- if not loop.last %},{% endif %}
        {%- endfor %}
    from with_mids as r
    {{ join_windows("edges", var("rolling_windows")) }}
    order by r.clock_us, r.lane_order
)

select * from final
