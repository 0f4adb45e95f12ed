-- Trades as they arrived, in lane order: names, types, validity, duplicates. No features.
-- Duplicates stay, marked, since the dedupe window of the next hour looks back on them.
{{ config(channel="trades", looks_back=var("trade_dedupe_window")) }}

{% set columns = "capture_ts, collected_at, timestamp, trade_id, side, price, amount, cost, info_json" -%}

with arrived as (
    select
        *,
        {{ clock_us() }} as clock_us
    from {{ source("trades") }} as segments
),

in_span as (
    select
        *,
        hash({{ columns }}) as row_hash
    from arrived
    where {{ in_span("clock_us") }}
),

copies as (
    {{ copies_of("in_span", columns) }}
),

marked as (
    select
        in_span.*,
        copies.position is not null as is_copy
    from in_span
    left join copies on in_span.segment = copies.segment and in_span.position = copies.position
),

typed as (
    select
        * exclude (info_json, row_hash),
        false as is_context,
        null::boolean as is_duplicate,
        null::bigint as lane_order,
        case lower(side) when 'buy' then 1 when 'sell' then -1 else 0 end::tinyint as direction,
        {{ is_price("price") }} and {{ is_amount("amount") }} as is_sound,
        is_sound
        and {{ fits_price("price") }}
        and {{ fits_amount("amount") }}
        and {{ fits_counter_amount(counter_amount("price", "amount")) }} as is_valid
    from marked
),

with_carried as (
    {{ carried("bronze.trades") }}
    select * from typed
),

-- a trade seen again within the window is a duplicate, whether the earlier one is itself one or not
judged as (
    select
        * replace (
            coalesce(
                is_duplicate,
                is_copy or (
                    trade_id is not null
                    and clock_us - lag(clock_us) over (
                        partition by trade_id, timestamp, price, amount, direction
                        order by clock_us, segment, position
                    ) < {{ (var("trade_dedupe_window") * 1000000) | round | int }}
                ),
                false
            ) as is_duplicate
        )
    from with_carried
),

final as (
    select
        * replace (
            coalesce(
                lane_order,
                row_number() over (
                    order by not is_context, is_duplicate, lane_order, {{ lane_order_of("trades") }}
                ) - 1 - {{ carried_count("bronze.trades") }}
            ) as lane_order
        )
    from judged
)

select * from final
