-- Trades with what a trader knew at each: the mid before it, and rolling volume, price and variance.
-- Grain: one row a trade that is no duplicate, in lane order; an invalid one has no features.
{{ config(
    channel="trades",
    partition="hour",
    keeps_order=true,
    context={
        "bronze.trades": [var("rolling_windows") | max, var("trade_dedupe_window")] | max,
        "bronze.orderbook": 0,
    },
    takes={
        "bronze.orderbook": [
            "clock_us", "lane_order", "segment", "position", "is_context", "is_duplicate", "is_valid", "mid_price",
        ],
    }
) }}

{% set columns = ("vwap", "volume", "dollar_volume", "trade_count", "buy_ratio", "realized_var") -%}

with trades as not materialized (
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

-- from here on numbers only; a trade's other columns join them again in the end
priced as (
    select
        clock_us,
        lane_order,
        is_context,
        is_valid,
        direction,
        case when is_valid then price end as valid_price,
        case when is_valid then amount end as volume,
        case when is_valid then {{ counter_amount("price", "amount") }} end as counter_volume
    from trades
),

with_returns as (
    select
        *,
        ln(
            valid_price / last_value(valid_price ignore nulls)
                over {{ in_lane_order("rows between unbounded preceding and 1 preceding") }}
        ) as log_return
    from priced
),

running as materialized (
    select
        clock_us,
        lane_order,
        is_context,
        is_valid,
        log_return,
        {{ is_edge() }} as is_edge,
        {{ running_limbs("volume", "volume", 2 ** 12) }},
        {{ running_limbs("counter_volume", "counter_volume", 2 ** 12) }},
        {{ running_limbs("square", "log_return * log_return", 2 ** 87) }},
        {{ running_count("is_valid") }} as trade_count,
        {{ running_count("is_valid and direction <> 0") }} as known_count,
        {{ running_count("is_valid and direction > 0") }} as buy_count,
        {{ running_count("log_return is not null") }} as return_count
    from with_returns
),

edges as (
    select * from running
    where is_edge
),

within as (
    select
        asked.lane_order,
        asked.seconds,
        {{ limbs_in_window("volume", 2 ** 12) }} as volume,
        {{ limbs_in_window("counter_volume", 2 ** 12) }} as counter_volume,
        {{ limbs_in_window("square", 2 ** 87) }} as squares,
        {{ in_window("trade_count") }} as trade_count,
        {{ in_window("known_count") }} as known_count,
        {{ in_window("buy_count") }} as buy_count,
        {{ in_window("return_count") }} as return_count
    from {{ windows_of("running", "edges", var("rolling_windows")) }}
),

rolling as (
    select
        lane_order,
        seconds,
        volume,
        {{ vwap_of("volume", "counter_volume") }} as vwap,
        {{ dollars_of("volume", "counter_volume") }} as dollar_volume,
        trade_count,
        buy_count::double / nullif(known_count, 0) as buy_ratio,
        case when return_count > 0 then squares end as realized_var
    from within
),

windows as (
    {{ one_row_each("rolling", columns, var("rolling_windows")) }}
),

beside as (
    select
        running.lane_order,
        running.log_return,
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

joined as (
    select
        trades.*,
        windows.* exclude (windows.lane_order),
        beside.log_return,
        beside.mid_before
    from trades
    inner join beside on trades.lane_order = beside.lane_order
    left join windows on trades.lane_order = windows.lane_order
    where not trades.is_context
),

final as (
    select
        {{ partition_columns("clock_us") }},
        collected_at,
        capture_ts,
        timestamp,
        trade_id,
        side,
        price,
        amount,
        cost,
        {{ instant("clock_us") }} as clock_ts,
        lane_order,
        is_valid,
        case when is_valid and direction <> 0 then direction > 0 end as is_buy,
        case when is_valid then {{ dollar_volume("price", "amount") }} end as dollar_volume,
        case when is_valid and direction <> 0 then direction * amount end as signed_volume,
        log_return,
        case when is_valid then {{ time_feature("hour_of_day", "clock_us") }} end as hour_of_day,
        case when is_valid then {{ time_feature("day_of_week", "clock_us") }} end as day_of_week,
        case when is_valid then {{ time_feature("is_weekend", "clock_us") }} end as is_weekend,
        mid_before,
        2 * abs(price - mid_before) / mid_before as effective_spread,
        columns('_[0-9]+s$')
    from joined
    order by lane_order
)

select * from final
