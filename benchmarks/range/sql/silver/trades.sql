-- The silver model of trades with RANGE frames in place of exact running sums: a yardstick, not a model to use. Its
-- float sums depend on where their input begins, and a frame takes in later rows of the same clock value.
-- Grain: one row a trade that is no duplicate, in lane order; an invalid one has no features.
{{ config(
    channel="trades",
    partition="hour",
    context={
        "bronze.trades": [var("rolling_windows") | max, var("trade_dedupe_window")] | max,
        "bronze.orderbook": 0,
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
        ln(valid_price / last_value(valid_price ignore nulls) over (
            order by clock_us, lane_order rows between unbounded preceding and 1 preceding
        )) as log_return
    from priced
),

rolled as (
    select
        *
        {%- for h in var("rolling_windows") %},
        sum(volume) over seconds_{{ h }} as sum_volume_{{ h }},
        sum(counter_volume) over seconds_{{ h }} as sum_counter_{{ h }},
        count(*) filter (where is_valid) over seconds_{{ h }} as count_{{ h }},
        count(*) filter (where is_valid and direction <> 0) over seconds_{{ h }} as known_{{ h }},
        count(*) filter (where is_valid and direction > 0) over seconds_{{ h }} as buys_{{ h }},
        sum(log_return * log_return) over seconds_{{ h }} as squares_{{ h }}
        {%- endfor %}
    from with_returns
    window
        {%- for h in var("rolling_windows") %}
        seconds_{{ h }} as (
            order by clock_us range between {{ h * 1000000 - 1 }} preceding and current row
        ){{ "," if not loop.last }}
        {%- endfor %}
),

windows as (
    select
        {% for h in var("rolling_windows") -%}
        {{ vwap_of("sum_volume_" ~ h, "sum_counter_" ~ h) }} as vwap_{{ h }}s,
        coalesce(sum_volume_{{ h }}, 0) as volume_{{ h }}s,
        coalesce({{ dollars_of("sum_volume_" ~ h, "sum_counter_" ~ h) }}, 0) as dollar_volume_{{ h }}s,
        count_{{ h }} as trade_count_{{ h }}s,
        buys_{{ h }}::double / nullif(known_{{ h }}, 0) as buy_ratio_{{ h }}s,
        squares_{{ h }} as realized_var_{{ h }}s,
        {% endfor -%}
        lane_order
    from rolled
    where not is_context and is_valid
),

beside as (
    select
        with_returns.lane_order,
        with_returns.log_return,
        case
            when
                with_returns.is_valid
                and with_returns.clock_us - mids.clock_us <= {{ (var("max_staleness") * 1000000) | round | int }}
                then mids.mid_price
        end as mid_before
    from with_returns
    asof left join mids on with_returns.clock_us > mids.clock_us
    where not with_returns.is_context
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
    order by clock_us, lane_order
)

select * from final
