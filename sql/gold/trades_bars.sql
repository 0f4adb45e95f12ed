-- Time bars of trades: price path, volume and signed flow.
-- A bar holds the valid trades of [bar_start, bar_end); a quiet bar has no row.
{{ config(channel="trades", partition="day", per="bar_durations") }}

with trades as (
    {{ rows_of_bars(ref("silver.trades"), var("bar_duration_sec")) }}
),

bars as (
    select
        bar_start_us,
        {{ price_path("price") }},
        sum(amount) as volume,
        sum(dollar_volume) as dollar_volume,
        count(*) as trade_count,
        coalesce(sum(amount) filter (where is_buy), 0) as buy_volume,
        coalesce(sum(amount) filter (where not is_buy), 0) as sell_volume,
        sum({{ base_volume("price", "amount") }}) as base_volume,
        avg(effective_spread) as mean_effective_spread,
        {{ volatility_of_rows("log_return") }}
    from trades
    group by bar_start_us
),

ended as (
    {{ ended_bars("bars", var("bar_duration_sec")) }}
),

final as (
    select
        {{ bar_columns(var("bar_duration_sec")) }},
        open,
        high,
        low,
        close,
        volume,
        dollar_volume,
        trade_count,
        buy_volume,
        sell_volume,
        dollar_volume / nullif(base_volume, 0) as vwap,
        (buy_volume - sell_volume) / nullif(buy_volume + sell_volume, 0) as trade_imbalance,
        mean_effective_spread,
        {{ returns_of_path() }},
        realized_variance,
        return_variance,
        {{ annualized(var("bar_duration_sec")) }} as annualized_vol
    from ended
    order by bar_start_us
)

select * from final
