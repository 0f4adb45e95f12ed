-- Time bars of order books: the path of the mid, spreads, depth and order flow.
-- A bar holds the valid books of [bar_start, bar_end); a quiet bar has no row.
{{ config(channel="orderbook", partition="day", per="bar_durations") }}

with books as (
    {{ rows_of_bars(ref("silver.orderbook"), var("bar_duration_sec")) }}
),

bars as (
    select
        bar_start_us,
        {{ price_path("mid_price") }},
        avg(spread) as mean_spread,
        min(spread) as min_spread,
        max(spread) as max_spread,
        avg(relative_spread) as mean_relative_spread,
        sum(relative_spread * held_us) / nullif(sum(held_us), 0) as tw_mean_relative_spread,
        sum(mid_price * held_us) / nullif(sum(held_us), 0) as tw_mean_mid,
        avg(microprice) as mean_microprice,
        avg(micro_minus_mid) as mean_micro_minus_mid,
        avg(imbalance_L1) as mean_l1_imbalance,
        avg(total_imbalance) as mean_total_imbalance,
        avg(total_bid_depth) as mean_bid_depth,
        avg(total_ask_depth) as mean_ask_depth,
        avg(smart_depth_imbalance) as mean_smart_depth_imbalance,
        sum(ofi) as sum_ofi,
        sum(mlofi) as sum_mlofi,
        {{ volatility_of_rows("log_return") }},
        count(*) as snapshot_count
    from books
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
        tw_mean_relative_spread,
        tw_mean_mid,
        mean_microprice,
        mean_micro_minus_mid,
        mean_l1_imbalance,
        mean_total_imbalance,
        mean_bid_depth,
        mean_ask_depth,
        mean_smart_depth_imbalance,
        sum_ofi,
        sum_mlofi,
        {{ returns_of_path() }},
        realized_variance,
        return_variance,
        {{ annualized(var("bar_duration_sec")) }} as annualized_vol,
        snapshot_count
    from ended
    order by bar_start_us
)

select * from final
