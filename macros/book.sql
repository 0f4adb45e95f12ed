{# Order book features. Per level there are columns `<side>_price_L<i>` and `<side>_size_L<i>`, NULL where a book has no
   such level; of all its first levels the lists `<side>_prices`, `<side>_sizes` and `<side>_distances` (bps of mid), NULL
   if the book is invalid. Sums run over the lists, in order: a list_sum or list_inner_product of 20 levels takes a fifth
   of the time of 20 terms with a coalesce each, and plans in no time. #}

{# The expression for each of the first `levels` levels, with commas; `x` holds @ where the number goes, from 1. #}
{% macro level_list(x, levels) -%}
{% for i in range(1, levels + 1) %}{{ ", " if not loop.first }}{{ x | replace("@", i | string) }}{% endfor %}
{%- endmacro %}

{# A level's column, NULL if there are not so many levels in this run. #}
{% macro level_or_null(side, what, i) -%}
{{ side ~ "_" ~ what ~ "_L" ~ i if i < var("levels") else "null::double" }}
{%- endmacro %}

{% macro imbalance(bid, ask) -%} ({{ bid }} - {{ ask }}) / nullif({{ bid }} + {{ ask }}, 0) {%- endmacro %}

{# How many of the levels are nearer than `bps`. Most books end before most edges, and are not searched. #}
{% macro levels_within(side, bps) -%}
case
    when {{ side }}_distances[-1] < {{ double(bps) }} then len({{ side }}_distances)
    else len(list_filter({{ side }}_distances, lambda d: d < {{ double(bps) }}))
end
{%- endmacro %}

{# Size at a distance in [lo, hi) bps, of all levels: a run of them. #}
{% macro size_within(side, lo, hi) -%}
{% set to = band_column(side ~ "_levels", (0, hi)) -%}
{% set before = band_column(side ~ "_levels", (0, lo)) if lo else "0" -%}
case
    when {{ to }} > {{ before }} then list_sum({{ side }}_sizes[{{ before }} + 1:{{ to }}])
    when {{ to }} is not null then 0
end
{%- endmacro %}

{# Least-squares slope of cumulative size on distance over the first 10 levels, at least 3 (units per bps), from what
   each level differs from the mean, so that nothing cancels. #}
{% macro regression_slope(side) -%}
case when {{ side }}_slope_levels >= 3 then
    list_inner_product({{ side }}_distance_residues, {{ side }}_cumulative_residues)
    / nullif(list_inner_product({{ side }}_distance_residues, {{ side }}_distance_residues), 0)
end
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
