-- Time bars of order books: the path of the mid, spreads, depth and order flow.
-- A bar holds the valid books of [bar_start, bar_end); a quiet bar has no row.
{{ config(channel="orderbook", partition="day", per="bar_durations") }}

{% set averaged = (
    "spread", "relative_spread", "microprice", "micro_minus_mid", "imbalance_L1", "total_imbalance", "total_bid_depth",
    "total_ask_depth", "smart_depth_imbalance",
) -%}

with books as (
    {{ rows_of_slices(ref("silver.orderbook"), var("bar_duration_sec")) }}
),

slices as (
    select
        slice_start_us,
        {{ path_of_slice("mid_price") }},
        {% for x in averaged -%}
        {{ terms_of_mean(x) }},
        {% endfor -%}
        min(spread) as min_spread,
        max(spread) as max_spread,
        sum(held_us) as held_us,
        {{ terms_of_held_mean("relative_spread") }},
        {{ terms_of_held_mean("mid_price") }},
        sum(ofi) as sum_ofi,
        sum(mlofi) as sum_mlofi,
        {{ terms_of_volatility() }},
        count(*) as snapshot_count
    from books
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
        {{ mean("spread") }} as mean_spread,
        min(min_spread) as min_spread,
        max(max_spread) as max_spread,
        {{ mean("relative_spread") }} as mean_relative_spread,
        {{ held_mean("relative_spread") }} as tw_mean_relative_spread,
        {{ held_mean("mid_price") }} as tw_mean_mid,
        {{ mean("microprice") }} as mean_microprice,
        {{ mean("micro_minus_mid") }} as mean_micro_minus_mid,
        {{ mean("imbalance_L1") }} as mean_l1_imbalance,
        {{ mean("total_imbalance") }} as mean_total_imbalance,
        {{ mean("total_bid_depth") }} as mean_bid_depth,
        {{ mean("total_ask_depth") }} as mean_ask_depth,
        {{ mean("smart_depth_imbalance") }} as mean_smart_depth_imbalance,
        sum(sum_ofi) as sum_ofi,
        sum(sum_mlofi) as sum_mlofi,
        {{ volatility_of_bar() }},
        sum(snapshot_count)::bigint as snapshot_count
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

select * from final;
