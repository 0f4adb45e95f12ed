-- Time bars of quotes: the path of the mid, spreads and volume imbalance.
-- A bar holds the valid quotes of [bar_start, bar_end); a quiet bar has no row.
{{ config(channel="ticker", partition="day", per="bar_durations") }}

with quotes as (
    {{ rows_of_bars(ref("silver.ticker"), var("bar_duration_sec")) }}
),

bars as (
    select
        bar_start_us,
        {{ price_path("mid_price") }},
        avg(spread) as mean_spread,
        min(spread) as min_spread,
        max(spread) as max_spread,
        avg(relative_spread) as mean_relative_spread,
        avg(volume_imbalance) as mean_volume_imbalance,
        count(*) as tick_count
    from quotes
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
        mean_spread,
        min_spread,
        max_spread,
        mean_relative_spread,
        mean_volume_imbalance,
        tick_count,
        {{ returns_of_path() }}
    from ended
    order by bar_start_us
)

select * from final
