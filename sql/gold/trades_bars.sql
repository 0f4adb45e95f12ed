-- Time bars of trades: price path, volume and signed flow.
-- A bar holds the valid trades of [bar_start, bar_end); a quiet bar has no row.
{{ config(channel="trades", partition="day", per="bar_durations") }}

with trades as (
    {{ rows_of_slices(ref("silver.trades"), var("bar_duration_sec")) }}
),

slices as (
    select
        slice_start_us,
        {{ path_of_slice("price") }},
        sum(amount) as volume,
        sum(dollar_volume) as dollar_volume,
        sum({{ base_volume("price", "amount") }}) as base_volume,
        sum(amount) filter (where is_buy) as buy_volume,
        sum(amount) filter (where not is_buy) as sell_volume,
        {{ terms_of_mean("effective_spread") }},
        {{ terms_of_volatility() }},
        count(*) as trade_count
    from trades
    group by slice_start_us
    order by slice_start_us
)

select * from slices;

with slices as (
    {{ slices_of_bars(var("bar_duration_sec")) }}
),

bars as (
    select
        bar_start_us,
        {{ path_of_bar() }},
        sum(volume) as volume,
        sum(dollar_volume) as dollar_volume,
        sum(base_volume) as base_volume,
        coalesce(sum(buy_volume), 0) as buy_volume,
        coalesce(sum(sell_volume), 0) as sell_volume,
        {{ mean("effective_spread") }} as mean_effective_spread,
        {{ volatility_of_bar() }},
        sum(trade_count)::bigint as trade_count
    from slices
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

select * from final;
