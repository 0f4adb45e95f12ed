-- Order books with their structure and with what happened since the last one.
-- Grain: one row a snapshot that is no duplicate, in lane order (or one a grid time, if resampled); an invalid one has
-- no features. Two statements: the ordered input of the kernel, which holds the structure, and the shape of the result.
{% set levels = var("levels") -%}
{% set first = [10, levels] | min -%}
{% set five = [5, levels] | min -%}
{% set sides = ("bid", "ask") -%}
{% set edges = (var("bands_bps") | map("list") | sum(start=[5, 50])) | reject("equalto", 0) | unique | list -%}
{{ config(
    channel="orderbook",
    partition="hour",
    kernel="orderbook",
    streams="bronze.orderbook",
    beside=ref("bronze.trades"),
    context={
        "bronze.trades": var("trade_dedupe_window"),
        "bronze.orderbook": var("resample_frequency"),
    }
) }}

with books as (
    select * from {{ ref("bronze.orderbook") }}
    where not is_duplicate
),

{% if var("resample_frequency") > 0 -%}
-- one row for each clock value that has a valid book, with the number of valid books up to it
last_books as materialized (
    select
        *,
        count(*) over (order by clock_us, lane_order rows between unbounded preceding and current row) as valid_books
    from books
    where is_valid
    qualify lead(clock_us) over (order by clock_us, lane_order) is distinct from clock_us
),

snapshots as (
    {{ resampled("last_books") }}
),
{%- else -%}
snapshots as (
    select
        *,
        clock_us as origin_us
    from books
),
{%- endif %}

-- the first levels as lists, which sums run over, and as columns, NULL where the book has none
leveled as (
    select
        * exclude (bid_prices, bid_sizes, ask_prices, ask_sizes),
        {% for side in sides -%}
        {{ side }}_prices[:{{ levels }}] as {{ side }}_prices,
        {{ side }}_sizes[:{{ levels }}] as {{ side }}_sizes,
        {% for i in range(levels) -%}
        {{ side }}_prices[{{ i + 1 }}] as {{ side }}_price_L{{ i }},
        {{ side }}_sizes[{{ i + 1 }}] as {{ side }}_size_L{{ i }},
        {% endfor -%}
        {% endfor -%}
        bid_prices[1] as best_bid,
        ask_prices[1] as best_ask
    from snapshots
),

-- depth down to each of the first levels. The cumulative sizes of the slopes are less the best level's: that moves no
-- slope, and would cost the digits of small sizes behind it
accumulated as (
    select
        *,
        best_ask - best_bid as spread,
        {% for side in sides -%}
        list_sum({{ side }}_sizes) as total_{{ side }}_depth,
        {% for i in range(first) -%}
        {{ side ~ "_depth_" ~ i ~ " + coalesce(" ~ side ~ "_size_L" ~ i ~ ", 0)" if i else side ~ "_size_L0" }}
            as {{ side }}_depth_{{ i + 1 }},
        {{ side ~ "_cumulative_" ~ i ~ " + coalesce(" ~ side ~ "_size_L" ~ i ~ ", 0)" if i else "0.0::double" }}
            as {{ side }}_cumulative_{{ i + 1 }},
        {% endfor -%}
        list_transform({{ side }}_prices, lambda p: (abs(p - mid_price) / mid_price) * 1e4) as {{ side }}_distances,
        {% endfor -%}
        least(len(bid_prices), {{ first }}) as bid_slope_levels,
        least(len(ask_prices), {{ first }}) as ask_slope_levels
    from leveled
),

-- distances never fall from level to level: a band is a run of levels
banded as (
    select
        *,
        {% for side in sides -%}
        {% for edge in edges -%}
        {{ levels_within(side, edge) }} as {{ band_column(side ~ "_levels", (0, edge)) }},
        {% endfor -%}
        {{ side }}_distances[-1] as {{ side }}_reach_bps,
        list_transform({{ side }}_sizes, lambda q: q / total_{{ side }}_depth) as {{ side }}_shares,
        {{ side }}_distances[:{{ first }}] as {{ side }}_first_distances,
        [{{ level_list(side ~ "_cumulative_@", first) }}][:{{ side }}_slope_levels] as {{ side }}_cumulative,
        {% endfor -%}
        list_inner_product(bid_prices, bid_sizes) + list_inner_product(ask_prices, ask_sizes) as turnover
    from accumulated
),

means as (
    select
        *,
        list_sum(bid_first_distances) / bid_slope_levels as bid_distance_mean,
        list_sum(ask_first_distances) / ask_slope_levels as ask_distance_mean,
        list_sum(bid_cumulative) / bid_slope_levels as bid_cumulative_mean,
        list_sum(ask_cumulative) / ask_slope_levels as ask_cumulative_mean
    from banded
),

residues as (
    select
        *,
        list_transform(bid_first_distances, lambda d: d - bid_distance_mean) as bid_distance_residues,
        list_transform(ask_first_distances, lambda d: d - ask_distance_mean) as ask_distance_residues,
        list_transform(bid_cumulative, lambda q: q - bid_cumulative_mean) as bid_cumulative_residues,
        list_transform(ask_cumulative, lambda q: q - ask_cumulative_mean) as ask_cumulative_residues
    from means
),

structure as (
    select
        *,
        spread / mid_price as relative_spread,
        (bid_size_L0 * ask_price_L0 + ask_size_L0 * bid_price_L0) / (bid_size_L0 + ask_size_L0)
            as microprice,
        microprice - mid_price as micro_minus_mid,
        {% for k in (1, 3, 5, 10) -%}
        {{ imbalance("bid_depth_" ~ [k, levels] | min, "ask_depth_" ~ [k, levels] | min) }} as imbalance_L{{ k }},
        {% endfor -%}
        {{ imbalance("total_bid_depth", "total_ask_depth") }} as total_imbalance,
        {% for side in sides -%}
        list_inner_product({{ side }}_prices[:{{ five }}], {{ side }}_sizes[:{{ five }}])
        / nullif({{ side }}_depth_{{ five }}, 0) as vwap_{{ side }}_5,
        list_inner_product(
            {{ side }}_sizes,
            list_transform({{ side }}_prices, lambda p: exp(-100 * abs(p - mid_price) / mid_price))
        ) as smart_{{ side }}_depth,
        abs({{ side }}_price_L0 - {{ level_or_null(side, "price", 4) }}) / {{ side }}_depth_{{ five }}
            as {{ side }}_slope,
        {{ regression_slope(side) }} as {{ side }}_slope_regression,
        {{ level_or_null(side, "size", 4) }} / {{ side }}_size_L0 as {{ side }}_depth_decay_5,
        list_inner_product({{ side }}_shares, {{ side }}_shares) as {{ side }}_concentration,
        {{ size_within(side, 0, 5) }} as {{ side }}_within_5,
        {{ size_within(side, 0, 50) }} as {{ side }}_within_50,
        {% endfor -%}
        vwap_ask_5 - vwap_bid_5 as vwap_spread,
        {{ imbalance("smart_bid_depth", "smart_ask_depth") }} as smart_depth_imbalance,
        bid_slope_regression / nullif(ask_slope_regression, 0) as slope_asymmetry,
        turnover / (total_bid_depth + total_ask_depth) as center_of_gravity,
        (center_of_gravity - mid_price) / mid_price * 1e4 as cog_vs_mid,
        (bid_depth_decay_5 + ask_depth_decay_5) / 2 as avg_depth_decay_5,
        {% for k in (3, 6) -%}
        spread / nullif(bid_depth_{{ [k, levels] | min }} + ask_depth_{{ [k, levels] | min }}, 0)
            as spread_per_depth_L{{ k }},
        {% endfor -%}
        {% for band in var("bands_bps") -%}
        {% for side in sides -%}
        case
            when {{ double(band[0]) }} < {{ side }}_reach_bps then {{ size_within(side, band[0], band[1]) }}
        end as {{ band_column(side ~ "_vol", band) }},
        {% endfor -%}
        {{ imbalance(band_column("bid_vol", band), band_column("ask_vol", band)) }} as {{ band_column("imb", band) }},
        {% endfor -%}
        case
            when bid_reach_bps >= 50 and ask_reach_bps >= 50
                then (bid_within_5 + ask_within_5) / nullif(bid_within_50 + ask_within_50, 0)
        end as book_convexity,
        bid_within_5 + ask_within_5 as depth_0_5bps
    from residues
)

select
    collected_at,
    capture_ts,
    timestamp,
    nonce,
    clock_us,
    origin_us,
    lane_order,
    is_valid,
    is_sound,
    {{ "snapshot_count," if var("resample_frequency") > 0 }}
    {% for column in structural_list().split() -%}
    {{ column }},
    {% endfor -%}
    depth_0_5bps
from structure
{% if var("input_is_ordered") -%}
where not is_context;
{%- else -%}
where not is_context
order by clock_us, lane_order;
{%- endif %}

with kernel_output as (
    select * from {{ kernel_output() }}
),

final as (
    select
        {{ partition_columns("clock_us") }},
        collected_at,
        capture_ts,
        timestamp,
        nonce,
        {{ instant("clock_us") }} as clock_ts,
        lane_order,
        is_valid,
        {% if var("resample_frequency") > 0 -%}
        {{ instant("origin_us") }} as original_timestamp,
        (clock_us - origin_us) / 1e6 as data_staleness,
        clock_us - origin_us > {{ (var("resample_max_staleness") * 1000000) | round | int }} as is_stale,
        snapshot_count,
        {% endif -%}
        {% for column in structural_list().split() -%}
        {{ column }},
        {% endfor -%}
        dt_prev_us / 1000 as dt_prev_ms,
        is_gap = 1 as is_gap,
        ofi,
        mlofi,
        log_return,
        mid_velocity,
        mid_accel,
        {% for h in var("rolling_windows") -%}
        ofi_sum_{{ h }}s,
        mlofi_sum_{{ h }}s,
        realized_vol_{{ h }}s,
        return_std_{{ h }}s,
        mean_return_{{ h }}s,
        mean_relative_spread_{{ h }}s,
        tfi_{{ h }}s,
        trade_vol_{{ h }}s,
        {% endfor -%}
        interval_buy_volume,
        interval_sell_volume,
        interval_trade_count::bigint as interval_trade_count,
        spread_percentile,
        case spread_regime when 1 then 'tight' when 2 then 'wide' when 0 then 'normal' end as spread_regime,
        spread_regime_tight_frac,
        spread_regime_wide_frac,
        kyle_lambda,
        kyle_lambda_r2,
        ofi_beta,
        ofi_beta_r2,
        bid_slope_mean_60s,
        bid_slope_std_60s,
        ask_slope_mean_60s,
        ask_slope_std_60s,
        cog_momentum_mean_60s,
        cog_momentum_std_60s,
        depth_0_5bps_sigma,
        vpin
    from kernel_output
)

{% if var("legacy_aliases") -%}
select
    *,
    {% for h in var("rolling_windows") -%}
    return_std_{{ h }}s as rv_{{ h }}s,
    mean_relative_spread_{{ h }}s as mean_spread_{{ h }}s,
    {% endfor -%}
    spread_per_depth_L6 as amihud_like,
    spread_per_depth_L3 as lambda_like,
    bid_slope as bid_slope_simple,
    ask_slope as ask_slope_simple,
    total_bid_depth as total_bid_volume,
    total_ask_depth as total_ask_volume,
    total_imbalance as book_pressure,
    vpin as order_flow_toxicity,
    ofi as ofi_step,
    mlofi as mlofi_step,
    log_return as log_return_step
from final;
{%- else -%}
select * from final;
{%- endif %}
