{# Order book features over level columns `<side>_price_L<i>`, `<side>_size_L<i>` and `<side>_distance_L<i>` (bps of
   mid). A level that a book does not have is NULL; sums run over those that exist. Unrolled, since one expression a level
   is vectorized and list functions are not (4 times slower on 20 levels). #}

{% macro present(x) -%} coalesce({{ x }}, 0) {%- endmacro %}

{# The sum of an expression over the first `levels` levels of a side; `x` holds @ where the level's number goes. #}
{% macro level_sum(x, levels) -%}
({% for i in range(levels) %}{{ " + " if not loop.first }}coalesce({{ x | replace("@", i | string) }}, 0){% endfor %})
{%- endmacro %}

{# The expression for each of the first `levels` levels, with commas. #}
{% macro level_list(x, levels) -%}
{% for i in range(levels) %}{{ ", " if not loop.first }}{{ x | replace("@", i | string) }}{% endfor %}
{%- endmacro %}

{% macro depth(side, levels) -%} {{ level_sum(side ~ "_size_L@", levels) }} {%- endmacro %}

{% macro level_vwap(side, levels) -%}
{{ level_sum(side ~ "_price_L@ * " ~ side ~ "_size_L@", levels) }} / nullif({{ depth(side, levels) }}, 0)
{%- endmacro %}

{% macro imbalance(bid, ask) -%} ({{ bid }} - {{ ask }}) / nullif({{ bid }} + {{ ask }}, 0) {%- endmacro %}

{# Size at a distance in [lo, hi) bps, of all levels. #}
{% macro size_within(side, lo, hi, levels) -%}
({% for i in range(levels) %}{{ " + " if not loop.first }}
case when {{ side }}_distance_L{{ i }} >= {{ double(lo) }} and {{ side }}_distance_L{{ i }} < {{ double(hi) }} then {{ side }}_size_L{{ i }} else 0 end
{%- endfor %})
{%- endmacro %}

{# Least-squares slope of cumulative size on distance over the first 10 levels, at least 3 (units per bps). Centred, so
   that nothing cancels. Level columns here are `<side>_distance_L<i>` and `<side>_cumulative_L<i>`. #}
{% macro regression_slope(side, levels) -%}
{% set d = side ~ "_distance_L@ - " ~ side ~ "_distance_mean" -%}
case when {{ side }}_slope_levels >= 3 then
    {{ level_sum("(" ~ d ~ ") * (" ~ side ~ "_cumulative_L@ - " ~ side ~ "_cumulative_mean)", levels) }}
    / nullif({{ level_sum("(" ~ d ~ ") * (" ~ d ~ ")", levels) }}, 0)
end
{%- endmacro %}

{% macro concentration(side, total, levels) -%}
{{ level_sum("(" ~ side ~ "_size_L@ / " ~ total ~ ") * (" ~ side ~ "_size_L@ / " ~ total ~ ")", levels) }}
{%- endmacro %}

{# A band's column, such as bid_vol_band_5_10bps; quoted where an edge has a fraction. #}
{% macro band_column(what, band) -%}
{% set name = what ~ "_band_" ~ band[0] ~ "_" ~ band[1] ~ "bps" -%}
{{ '"' ~ name ~ '"' if "." in name else name }}
{%- endmacro %}

{# The book at each time of the grid: the last valid one received at or before it (SPEC 9). The grid ends before the
   lane's last clock, since only a later row proves that a time is over. #}
{% macro resampled(books) -%}
{% set step = var("resample_frequency") * 1000000 -%}
select
    grid.clock_us,
    grid.clock_us as grid_us,
    last_book.clock_us as origin_us,
    last_book.* exclude (clock_us, lane_order, is_context, valid_books),
    false as is_context,
    last_book.valid_books - coalesce(before.valid_books, 0) as snapshot_count,
    row_number() over (order by grid.clock_us) - 1 as lane_order
from (
    select unnest(generate_series(
        {{ floor_to(bind("span_start_us") ~ " + " ~ (step - 1), step) }},
        least({{ bind("span_end_us") }}, {{ bind("horizon_us") }}) - 1,
        {{ step }}
    )) as clock_us
) as grid
asof inner join {{ books }} as last_book on grid.clock_us >= last_book.clock_us
asof left join {{ books }} as before on grid.clock_us - {{ step }} >= before.clock_us
where
    last_book.valid_books - coalesce(before.valid_books, 0) > 0
{% if var("fill_gaps") %}
    or grid.clock_us - last_book.clock_us <= {{ (var("resample_max_staleness") * 1000000) | round | int }}
{% endif %}
{%- endmacro %}

{# The structural columns of silver.orderbook, in order; the kernel reads some of them, the others pass by. #}
{% macro structural_list() -%}
{% for side in ("bid", "ask") %}{% for i in range(var("levels")) -%}
{{ side }}_price_L{{ i }} {{ side }}_size_L{{ i }} {% endfor %}{% endfor -%}
best_bid best_ask mid_price spread relative_spread microprice micro_minus_mid
imbalance_L1 imbalance_L3 imbalance_L5 imbalance_L10 total_bid_depth total_ask_depth total_imbalance
vwap_bid_5 vwap_ask_5 vwap_spread smart_bid_depth smart_ask_depth smart_depth_imbalance
bid_slope ask_slope bid_slope_regression ask_slope_regression slope_asymmetry center_of_gravity cog_vs_mid
bid_depth_decay_5 ask_depth_decay_5 avg_depth_decay_5 bid_concentration ask_concentration
spread_per_depth_L3 spread_per_depth_L6 bid_reach_bps ask_reach_bps
{% for band in var("bands_bps") -%}
{% for what in ("bid_vol", "ask_vol", "imb") %} {{ band_column(what, band) }}{% endfor %}
{%- endfor %} book_convexity
{%- endmacro %}
