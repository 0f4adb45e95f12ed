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
        case when is_valid then amount end as volume,
        case when is_valid then {{ counter_amount("price", "amount") }} end as counter_volume,
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
        {{ running_limbs("volume", "volume", 2 ** 12) }},
        {{ running_limbs("counter_volume", "counter_volume", 2 ** 12) }},
        {{ running_limbs("square", "log_return * log_return", 2 ** 87) }},
        {{ running("is_valid::bigint") }} as trade_count,
        {{ running("(is_valid and direction <> 0)::bigint") }} as known_count,
        {{ running("(is_valid and direction > 0)::bigint") }} as buy_count,
        {{ running("(log_return is not null)::bigint") }} as return_count
    from with_returns
),

edges as materialized (
    select
        clock_us,
        volume_upper,
        volume_lower,
        counter_volume_upper,
        counter_volume_lower,
        square_upper,
        square_lower,
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

windowed as (
    select
        r.*,
        {%- for h in var("rolling_windows") %}
        {%- set w = "w" ~ h %}
        {{ limbs_in_window("volume", w, 2 ** 12) }} as volume_{{ h }},
        {{ limbs_in_window("counter_volume", w, 2 ** 12) }} as counter_volume_{{ h }},
        {{ limbs_in_window("square", w, 2 ** 87) }} as squares_{{ h }},
        {{ in_window("trade_count", w) }}::bigint as trades_{{ h }},
        {{ in_window("known_count", w) }} as known_{{ h }},
        {{ in_window("buy_count", w) }} as buys_{{ h }},
        {{ in_window("return_count", w) }} as returns_{{ h }}
        {%- if not loop.last %},{% endif %}
        {%- endfor %}
    from with_mids as r
    {{ join_windows("edges", var("rolling_windows")) }}
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
        dollar_volume,
        case when is_valid and direction <> 0 then direction * amount end as signed_volume,
        log_return,
        case when is_valid then {{ time_feature("hour_of_day", "clock_us") }} end as hour_of_day,
        case when is_valid then {{ time_feature("day_of_week", "clock_us") }} end as day_of_week,
        case when is_valid then {{ time_feature("is_weekend", "clock_us") }} end as is_weekend,
        mid_before,
        2 * abs(price - mid_before) / mid_before as effective_spread,
        {%- for h in var("rolling_windows") %}
        case when is_valid then {{ vwap_of("volume_" ~ h, "counter_volume_" ~ h) }} end as vwap_{{ h }}s,
        case when is_valid then volume_{{ h }} end as volume_{{ h }}s,
        case when is_valid then {{ dollars_of("volume_" ~ h, "counter_volume_" ~ h) }} end as dollar_volume_{{ h }}s,
        case when is_valid then trades_{{ h }} end as trade_count_{{ h }}s,
        case when is_valid then buys_{{ h }}::double / nullif(known_{{ h }}, 0) end as buy_ratio_{{ h }}s,
        case when is_valid and returns_{{ h }} > 0 then squares_{{ h }} end as realized_var_{{ h }}s
        {%- if not loop.last %},{% endif %}
        {%- endfor %}
    from windowed
    order by clock_us, lane_order
)

select * from final
