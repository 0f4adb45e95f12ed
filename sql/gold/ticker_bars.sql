-- Time bars of quotes: the path of the mid, spreads and volume imbalance.
-- A bar holds the valid quotes of [bar_start, bar_end); a quiet bar has no row.
{{ config(channel="ticker", partition="day", per="bar_durations") }}

with quotes as (
    {{ rows_of_slices(ref("silver.ticker"), var("bar_duration_sec")) }}
),

slices as (
    select
        slice_start_us,
        {{ path_of_slice("mid_price") }},
        min(spread) as min_spread,
        max(spread) as max_spread,
        {{ terms_of_mean("spread") }},
        {{ terms_of_mean("relative_spread") }},
        {{ terms_of_mean("volume_imbalance") }},
        count(*) as tick_count
    from quotes
    group by slice_start_us
    order by slice_start_us
)

select * from slices;

with slices as (
    {{ slices_of_bars(var("bar_duration_sec"), returns=false) }}
),

bars as (
    select
        bar_start_us,
        {{ path_of_bar() }},
        {{ mean("spread") }} as mean_spread,
        min(min_spread) as min_spread,
        max(max_spread) as max_spread,
        {{ mean("relative_spread") }} as mean_relative_spread,
        {{ mean("volume_imbalance") }} as mean_volume_imbalance,
        sum(tick_count)::bigint as tick_count
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

select * from final;
