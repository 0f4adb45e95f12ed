/* The order book kernel's formulas in C, statement by statement: the yardstick of `python -m benchmarks kernel`.
   The records and their meaning are those of daedalus_etl/kernels/{exact,ranks,flow,book}.py; the benchmark compares
   every bit of what comes out. Built with gcc -O3 -march=native -ffp-contract=off. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef int64_t i64;
typedef unsigned __int128 u128;

/* -- exact sums: 256-bit fixed point ------------------------------------------------------------------------------ */

typedef u64 Sum[4];

static inline u64 bits_of(double x) { u64 b; memcpy(&b, &x, 8); return b; }
static inline double of_bits(u64 b) { double x; memcpy(&x, &b, 8); return x; }

static inline void add(u64 *total, double x) {
    u64 bits = bits_of(x);
    i64 bit = (i64)((bits >> 52) & 2047) - 1075 + 128;
    u64 mantissa = (bits & 0xFFFFFFFFFFFFFULL) | 0x10000000000000ULL;
    if (bit < 0) {
        if (bit < -54) return;
        u64 cut = -bit, rest = mantissa & ((1ULL << cut) - 1), half = 1ULL << (cut - 1);
        mantissa >>= cut;
        if (rest > half || (rest == half && (mantissa & 1))) mantissa++;
        bit = 0;
    }
    int limb = bit >> 6, shift = bit & 63;
    u128 wide = (u128)mantissa << shift;
    u64 part[2] = {(u64)wide, (u64)(wide >> 64)};
    if (!(bits >> 63)) {
        u128 carry = 0;
        for (int i = limb; i < 4; i++) {
            if (i > limb + 1 && !carry) return;
            u128 t = (u128)total[i] + (i - limb < 2 ? part[i - limb] : 0) + carry;
            total[i] = (u64)t;
            carry = t >> 64;
        }
    } else {
        u64 borrow = 0;
        for (int i = limb; i < 4; i++) {
            if (i > limb + 1 && !borrow) return;
            u64 p = i - limb < 2 ? part[i - limb] : 0, before = total[i], after = before - p;
            total[i] = after - borrow;
            borrow = (before < p) | (after < borrow);
        }
    }
}

static inline double nearest(u64 a0, u64 a1, u64 a2, u64 a3) {
    int negative = a3 >> 63;
    if (negative) {
        u128 c = 1;
        u64 *a[4] = {&a0, &a1, &a2, &a3};
        for (int i = 0; i < 4; i++) { c += (u64)~*a[i]; *a[i] = (u64)c; c >>= 64; }
    }
    u64 top, below, rest;
    i64 exponent;
    if (a3) { top = a3; below = a2; rest = a1 | a0; exponent = 64; }
    else if (a2) { top = a2; below = a1; rest = a0; exponent = 0; }
    else if (a1) { top = a1; below = a0; rest = 0; exponent = -64; }
    else { top = a0; below = 0; rest = 0; exponent = -128; }
    if (!top) return 0.0;
    int zeros = __builtin_clzll(top);
    top = (top << zeros) | ((below >> 1) >> (63 - zeros));
    below <<= zeros;
    u64 low = top & 2047, kept = top >> 11;
    if (low > 1024 || (low == 1024 && ((below | rest) || (kept & 1)))) kept++;
    double value = (double)(i64)kept * of_bits((u64)(exponent - zeros + 1034) << 52);
    return negative ? -value : value;
}

static inline void minus(const u64 *a, const u64 *b, u64 *d) {
    u64 borrow = 0;
    for (int i = 0; i < 4; i++) {
        u64 t = a[i] - b[i];
        d[i] = t - borrow;
        borrow = (a[i] < b[i]) | (t < borrow);
    }
}

static inline double difference(const u64 *a, const u64 *b) {
    u64 d[4];
    minus(a, b, d);
    return nearest(d[0], d[1], d[2], d[3]);
}

static inline void pairs(const Sum *total, const Sum *start, int count, double (*out)[2]) {
    for (int j = 0; j < count; j++) {
        u64 d[4];
        minus(total[j], start[j], d);
        double high = nearest(d[0], d[1], d[2], d[3]);
        add(d, -high);
        out[j][0] = high;
        out[j][1] = nearest(d[0], d[1], d[2], d[3]);
    }
}

static inline void product(double x, double y, double *high, double *low) {
    double p = x * y, cx = 134217729.0 * x, xh = cx - (cx - x), xl = x - xh;
    double cy = 134217729.0 * y, yh = cy - (cy - y), yl = y - yh;
    *high = p;
    *low = ((xh * yh - p) + xh * yl + xl * yh) + xl * yl;
}

static double centred(double n, const double *ab, const double *a, const double *b) {
    double p, pe, q, qe;
    product(n, ab[0], &p, &pe);
    pe += n * ab[1];
    product(a[0], b[0], &q, &qe);
    qe += a[0] * b[1] + a[1] * b[0];
    double s = p + -q, t = s - p, de = (p - (s - t)) + (-q - t);
    double result = s + (de + (pe - qe)), least = 2.0e-29 * fabs(p), last = n * n * 0x1p-127;
    return fabs(result) <= (least > last ? least : last) ? 0.0 : result;
}

/* -- ranks: a treap ------------------------------------------------------------------------------------------------ */

typedef struct { double key; i64 child[2], count, total; } Node;

static u64 priority(double x) {
    u64 h = bits_of(x) + 0x9E3779B97F4A7C15ULL;
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ULL;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBULL;
    return h ^ (h >> 31);
}

static int above(Node *nodes, i64 a, i64 b) {
    u64 pa = priority(nodes[a].key), pb = priority(nodes[b].key);
    return pa > pb || (pa == pb && nodes[a].key > nodes[b].key);
}

static void recount(Node *nodes, i64 n) {
    nodes[n].total = nodes[nodes[n].child[0]].total + nodes[nodes[n].child[1]].total + nodes[n].count;
}

static void hang(i64 *head, Node *nodes, i64 parent, i64 old, i64 fresh) {
    if (!parent) head[0] = fresh;
    else nodes[parent].child[nodes[parent].child[0] == old ? 0 : 1] = fresh;
}

static i64 rotate(i64 *head, Node *nodes, i64 parent, i64 node, int side) {
    i64 child = nodes[node].child[side];
    nodes[node].child[side] = nodes[child].child[1 - side];
    nodes[child].child[1 - side] = node;
    hang(head, nodes, parent, node, child);
    recount(nodes, node);
    recount(nodes, child);
    return child;
}

static void insert(i64 *head, Node *nodes, double x) {
    i64 path[256];
    int depth = 0;
    i64 node = head[0];
    while (node) {
        nodes[node].total++;
        if (nodes[node].key == x) { nodes[node].count++; return; }
        path[depth++] = node;
        node = nodes[node].child[x < nodes[node].key ? 0 : 1];
    }
    if (head[2]) { node = head[2]; head[2] = nodes[node].child[0]; }
    else node = ++head[1];
    nodes[node] = (Node){x, {0, 0}, 1, 1};
    if (!depth) { head[0] = node; return; }
    nodes[path[depth - 1]].child[x < nodes[path[depth - 1]].key ? 0 : 1] = node;
    while (depth && above(nodes, node, path[depth - 1])) {
        i64 parent = path[--depth];
        rotate(head, nodes, depth ? path[depth - 1] : 0, parent, nodes[parent].child[0] == node ? 0 : 1);
    }
}

static void take_out(i64 *head, Node *nodes, double x) {
    i64 parent = 0, node = head[0];
    while (nodes[node].key != x || !node) {
        if (!node) abort();
        nodes[node].total--;
        parent = node;
        node = nodes[node].child[x < nodes[node].key ? 0 : 1];
    }
    nodes[node].count--;
    nodes[node].total--;
    if (nodes[node].count > 0) return;
    while (nodes[node].child[0] && nodes[node].child[1])
        parent = rotate(head, nodes, parent, node, above(nodes, nodes[node].child[0], nodes[node].child[1]) ? 0 : 1);
    hang(head, nodes, parent, node, nodes[node].child[0] ? nodes[node].child[0] : nodes[node].child[1]);
    nodes[node].child[0] = head[2];
    head[2] = node;
}

static i64 smaller(i64 *head, Node *nodes, double x, double tolerance) {
    i64 found = 0, node = head[0];
    while (node) {
        if (x - nodes[node].key > tolerance) {
            found += nodes[nodes[node].child[0]].total + nodes[node].count;
            node = nodes[node].child[1];
        } else node = nodes[node].child[0];
    }
    return found;
}

/* -- the lane ------------------------------------------------------------------------------------------------------ */

enum { RETURN, OFI, MLOFI, RELATIVE, BID_SLOPE, ASK_SLOPE, COG, DEPTH, SPREAD, NET, REGIME, HELD, FIELDS };
enum { NORMAL, TIGHT, WIDE };
enum { S_RETURN, S_SQUARE, S_OFI, S_MLOFI, S_RELATIVE, ROLLING_SUMS, S_SLOW = 5, S_REGRESSION = 13, SUMS = 23 };
enum { E_SLOPES = 6, E_DEPTH = 15, E_KYLE = 18, TERMS = 34, QUEUES = 8, LEVELS = 64, WINDOWS = 16 };
enum { T_SLOPES, T_DEPTH, T_REGIME, T_KYLE, T_EDGE };
static const int TARGET[TERMS] = {0, 1, 1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12, 12,
                                  13, 14, 15, 15, 16, 16, 17, 17, 18, 19, 20, 20, 21, 21, 22, 22};

typedef struct {
    i64 clock;
    double row[FIELDS];
    i64 returns, spent[3];
    Sum sums[ROLLING_SUMS];
    i64 queue[QUEUES];
} Row;

typedef struct { i64 clock; double amount; Sum total[2]; } Deal;

typedef struct {
    i64 books, at, origin, head, returns, spent[3], counts[6], tail[WINDOWS + 5], ends[QUEUES][2], heap[3];
    double mid, dt, velocity, levels[4][LEVELS], row[FIELDS], terms[TERMS];
    Sum sums[SUMS];
    i64 seen, since, tick, fill, net, full, valued, trades, tails[WINDOWS];
    double price, vpin;
    Sum total[2], mark[2];
    Row *ring;
    Node *nodes;
    Deal *deals;
    i64 mask, deal_mask;
} Lane;

static const Sum ZERO[SUMS];

static inline double bounded(double x) { return fabs(x) <= 4503599627370496.0 ? x : NAN; }
static inline double y_of(const double *row, int which) { return which ? row[OFI] : row[NET]; }

static void terms_of(const double *row, double *t, int first, int last) {
    double x = row[RETURN];
    if (!first) {
        t[0] = x;
        product(x, x, t + 1, t + 2);
        t[3] = row[OFI]; t[4] = row[MLOFI]; t[5] = row[RELATIVE];
    }
    for (int k = 0; k < 4; k++) {
        int e = E_SLOPES + 3 * k;
        if (first <= e && e < last) { t[e] = row[BID_SLOPE + k]; product(t[e], t[e], t + e + 1, t + e + 2); }
    }
    if (last == TERMS)
        for (int w = 0; w < 2; w++) {
            double y = y_of(row, w);
            int e = E_KYLE + 8 * w;
            t[e] = x + 0.0 * y; t[e + 1] = y + 0.0 * x;
            product(x, y, t + e + 2, t + e + 3);
            product(t[e], t[e], t + e + 4, t + e + 5);
            product(t[e + 1], t[e + 1], t + e + 6, t + e + 7);
        }
}

static void add_terms(Lane *s, int first, int last, double sign) {
    for (int j = first; j < last; j++)
        if (s->terms[j] == s->terms[j]) add(s->sums[TARGET[j]], sign * s->terms[j]);
    for (int k = 0; k < 4; k++) {
        int e = E_SLOPES + 3 * k;
        if (first <= e && e < last && s->terms[e] == s->terms[e]) s->counts[k] += (i64)sign;
    }
    for (int k = 0; k < 2; k++) {
        int e = E_KYLE + 8 * k;
        if (first <= e && e < last && s->terms[e] == s->terms[e]) s->counts[4 + k] += (i64)sign;
    }
}

static inline double queue_value(Lane *s, int q, i64 seq) {
    const double *row = s->ring[seq & s->mask].row;
    return q & 2 ? row[RETURN] : y_of(row, q >> 2);
}

static void enqueue(Lane *s, int which, i64 seq) {
    for (int q = 4 * which; q < 4 * which + 4; q++) {
        double x = queue_value(s, q, seq), direction = q & 1 ? 1.0 : -1.0;
        i64 last = s->ends[q][1];
        while (last > s->ends[q][0] &&
               (x - queue_value(s, q, s->ring[(last - 1) & s->mask].queue[q])) * direction >= 0.0) last--;
        s->ring[last & s->mask].queue[q] = seq;
        s->ends[q][1] = last + 1;
    }
}

static int is_constant(Lane *s, int q) {
    double low = queue_value(s, q, s->ring[s->ends[q][0] & s->mask].queue[q]);
    double high = queue_value(s, q + 1, s->ring[s->ends[q + 1][0] & s->mask].queue[q + 1]);
    return high - low <= 1e-9 * fmax(fabs(low), fabs(high));
}

static void remember(Lane *s, i64 clock) {
    const double *row = s->row;
    if (s->head > 0 && row[HELD] > 0.0) {
        i64 held = (i64)row[HELD], regime = (i64)s->ring[(s->head - 1) & s->mask].row[REGIME];
        s->spent[0] += held;
        if (regime != NORMAL) s->spent[regime] += held;
    }
    Row *fresh = &s->ring[s->head & s->mask];
    fresh->clock = clock;
    memcpy(fresh->row, row, sizeof fresh->row);
    memcpy(fresh->sums, s->sums, sizeof fresh->sums);
    fresh->returns = s->returns;
    memcpy(fresh->spent, s->spent, sizeof fresh->spent);
    terms_of(row, s->terms, 0, TERMS);
    add_terms(s, 0, TERMS, 1.0);
    if (row[RETURN] == row[RETURN]) s->returns++;
    for (int w = 0; w < 2; w++)
        if (s->terms[E_KYLE + 8 * w] == s->terms[E_KYLE + 8 * w]) enqueue(s, w, s->head);
    insert(s->heap, s->nodes, row[SPREAD]);
    s->head++;
}

static void expire(Lane *s, i64 now, int rolling, const i64 *window) {
    for (int w = 0; w < rolling + 5; w++) {
        i64 edge = now - window[w], tail = s->tail[w];
        int kind = w - rolling;
        if (kind == T_EDGE) {
            while (tail + 1 < s->head && s->ring[(tail + 1) & s->mask].clock <= edge) tail++;
            s->tail[w] = tail;
            continue;
        }
        while (tail < s->head && s->ring[tail & s->mask].clock <= edge) {
            const double *row = s->ring[tail & s->mask].row;
            if (kind == T_REGIME) take_out(s->heap, s->nodes, row[SPREAD]);
            else if (kind >= 0) {
                int first = kind == T_SLOPES ? E_SLOPES : kind == T_DEPTH ? E_DEPTH : E_KYLE;
                int last = kind == T_SLOPES ? E_DEPTH : kind == T_DEPTH ? E_KYLE : TERMS;
                if (kind == T_KYLE)
                    for (int q = 0; q < QUEUES; q++)
                        if (s->ends[q][1] > s->ends[q][0] && s->ring[s->ends[q][0] & s->mask].queue[q] == tail)
                            s->ends[q][0]++;
                terms_of(row, s->terms, first, last);
                add_terms(s, first, last, -1.0);
            }
            tail++;
        }
        s->tail[w] = tail;
    }
}

static double deviation(i64 n, double (*p)[2]) {
    double v = centred((double)n, p[1], p[0], p[0]);
    return sqrt((v > 0.0 ? v : 0.0) / ((double)n * (double)(n - 1)));
}

static double level_flow(double price, double size, double last_price, double last_size, double direction) {
    double change = (price - last_price) * direction;
    return change > 0.0 ? size : change < 0.0 ? -last_size : size - last_size;
}

static void close_bucket(Lane *s, i64 *bucket, i64 buckets, i64 net) {
    bucket[s->full % buckets] = net < 0 ? -net : net;
    s->full++;
    s->net = s->fill = s->valued = 0;
}

static void fill_buckets(Lane *s, i64 *bucket, i64 buckets, double amount, i64 sign, i64 volume) {
    double units = rint(amount * 1e9);
    i64 rest = (i64)fmod(units, (double)volume);
    double wholes = (units - (double)rest) / (double)volume;
    i64 whole = (i64)(wholes < 1e15 ? wholes : 1e15), space = volume - s->fill;
    if (!whole && rest < space) { s->fill += rest; s->net += sign * rest; return; }
    close_bucket(s, bucket, buckets, s->net + sign * space);
    if (rest >= space) rest -= space;
    else { rest += volume - space; whole--; }
    i64 kept = whole < buckets ? whole : buckets;
    s->full += whole - kept;
    for (i64 i = 0; i < kept; i++) close_bucket(s, bucket, buckets, sign * volume);
    s->fill = rest;
    s->net = sign * rest;
}

static void expire_trades(Lane *s, i64 now, int rolling, const i64 *window) {
    for (int w = 0; w < rolling; w++) {
        i64 tail = s->tails[w], edge = now - window[w];
        while (tail < s->trades && s->deals[tail & s->deal_mask].clock <= edge) tail++;
        s->tails[w] = tail;
    }
}

Lane *lane_new(i64 ring_rows, i64 deal_rows) {
    Lane *s = calloc(1, sizeof *s);
    s->ring = calloc(ring_rows, sizeof *s->ring);
    s->nodes = calloc(ring_rows + 2, sizeof *s->nodes);
    s->deals = calloc(deal_rows, sizeof *s->deals);
    s->mask = ring_rows - 1;
    s->deal_mask = deal_rows - 1;
    s->velocity = NAN;
    return s;
}

void lane_free(Lane *s) {
    free(s->ring);
    free(s->nodes);
    free(s->deals);
    free(s);
}

/* A batch of n books, and the m trades not yet taken; returns how many were. levels: double[4][depth][stride]; out:
   double[columns][stride]. */
i64 walk(Lane *s, i64 n, const i64 *clock, const i64 *origin, const uint8_t *is_valid, const double *mid,
         const double *spread, const double *relative, const double *bid_slope, const double *ask_slope,
         const double *cog, const double *depth_0_5, const double *levels, i64 m, const i64 *trade_clock,
         const uint8_t *trade_valid, const double *price, const double *amount, const int8_t *side, int rolling,
         const i64 *window, int depth, const double *weight, i64 max_staleness, i64 volume, i64 *bucket, i64 buckets,
         int columns, double *out, i64 stride) {
    double pair[5][2];
    i64 taken = 0;
#define OUT(k) out[(i64)(k) * stride + i]
    for (i64 i = 0; i < n; i++) {
        i64 now = clock[i];
        for (int k = 0; k < columns; k++) OUT(k) = NAN;
        if (!is_valid[i]) continue;
        for (; taken < m && trade_clock[taken] <= now; taken++) {
            if (!trade_valid[taken]) continue;
            if (s->seen > 0 && price[taken] != s->price) s->tick = price[taken] > s->price ? 1 : -1;
            s->price = price[taken];
            s->seen++;
            s->since++;
            i64 sign = side[taken];
            if (sign) {
                double signed_amount = sign > 0 ? amount[taken] : -amount[taken];
                Deal *deal = &s->deals[s->trades & s->deal_mask];
                deal->clock = trade_clock[taken];
                deal->amount = signed_amount;
                memcpy(deal->total, s->total, sizeof deal->total);
                s->trades++;
                add(s->total[signed_amount >= 0.0 ? 0 : 1], fabs(signed_amount));
                expire_trades(s, trade_clock[taken], rolling, window);
            } else sign = s->tick;
            fill_buckets(s, bucket, buckets, amount[taken], sign, volume);
        }
        expire_trades(s, now, rolling, window);

        double *row = s->row;
        for (int k = 0; k < FIELDS; k++) row[k] = NAN;
        row[HELD] = 0.0;
        int has_last = s->books > 0, gap = has_last && origin[i] - s->origin > max_staleness;
        OUT(1) = gap;
        if (has_last) OUT(0) = (double)(now - s->at);
        double dt = (double)(now - s->at) * 1e-6, velocity = NAN;
        if (has_last && !gap) {
            row[HELD] = (double)(now - s->at);
            double mlofi = 0.0;
            for (int k = 0; k < depth; k++) {
                double e = 0.0, p[4];
                for (int j = 0; j < 4; j++) p[j] = levels[(i64)(j * depth + k) * stride + i];
                if (p[0] == p[0] && s->levels[0][k] == s->levels[0][k])
                    e += level_flow(p[0], p[1], s->levels[0][k], s->levels[1][k], 1.0);
                if (p[2] == p[2] && s->levels[2][k] == s->levels[2][k])
                    e -= level_flow(p[2], p[3], s->levels[2][k], s->levels[3][k], -1.0);
                if (!k) row[OFI] = e;
                mlofi += weight[k] * e;
            }
            row[MLOFI] = mlofi;
            row[RETURN] = log(mid[i] / s->mid);
            OUT(2) = row[OFI]; OUT(3) = mlofi; OUT(4) = row[RETURN];
            if (now > s->at) {
                velocity = (mid[i] - s->mid) / dt;
                OUT(5) = velocity;
                if (s->velocity == s->velocity) OUT(6) = (velocity - s->velocity) / ((dt + s->dt) / 2.0);
            }
        }
        s->dt = dt;
        s->velocity = velocity;

        int c = 7 + 6 * rolling;
        if (s->seen > 0) {
            double bought = difference(s->total[0], s->mark[0]), sold = difference(s->total[1], s->mark[1]);
            OUT(c) = bought; OUT(c + 1) = sold; OUT(c + 2) = (double)s->since;
            double net = bought - sold;
            row[NET] = bounded(fabs(net) <= 1e-12 * (bought + sold) ? 0.0 : net);
        }
        s->since = 0;
        memcpy(s->mark, s->total, sizeof s->mark);
        row[RELATIVE] = relative[i];
        row[BID_SLOPE] = bounded(bid_slope[i]); row[ASK_SLOPE] = bounded(ask_slope[i]);
        row[COG] = bounded(cog[i]); row[DEPTH] = bounded(depth_0_5[i]);
        row[SPREAD] = spread[i]; row[REGIME] = NORMAL;
        remember(s, now);
        expire(s, now, rolling, window);

        for (int w = 0; w < rolling; w++) {
            int o = 7 + 6 * w;
            Row *first = &s->ring[s->tail[w] & s->mask];
            i64 count = s->returns - first->returns;
            if (count > 0) {
                pairs(s->sums, first->sums, 2, pair);
                OUT(o) = difference(s->sums[S_OFI], first->sums[S_OFI]);
                OUT(o + 1) = difference(s->sums[S_MLOFI], first->sums[S_MLOFI]);
                OUT(o + 2) = sqrt(pair[S_SQUARE][0] > 0.0 ? pair[S_SQUARE][0] : 0.0);
                OUT(o + 4) = pair[S_RETURN][0] / (double)count;
            }
            if (count > 1) OUT(o + 3) = deviation(count, pair);
            OUT(o + 5) = difference(s->sums[S_RELATIVE], first->sums[S_RELATIVE]) / (double)(s->head - s->tail[w]);
        }
        c = 10 + 6 * rolling;
        if (s->seen > 0)
            for (int w = 0; w < rolling; w++) {
                double bought = 0.0, sold = 0.0;
                if (s->tails[w] < s->trades) {
                    Deal *first = &s->deals[s->tails[w] & s->deal_mask];
                    bought = difference(s->total[0], first->total[0]);
                    sold = difference(s->total[1], first->total[1]);
                }
                OUT(c + 2 * w + 1) = bought + sold;
                if (bought + sold > 0.0) OUT(c + 2 * w) = (bought - sold) / (bought + sold);
            }
        c += 2 * rolling;
        double share = (double)smaller(s->heap, s->nodes, spread[i], 1e-9 * mid[i]) / (double)s->nodes[s->heap[0]].total;
        int regime = share <= 0.2 ? TIGHT : share >= 0.8 ? WIDE : NORMAL;
        s->ring[(s->head - 1) & s->mask].row[REGIME] = regime;
        OUT(c) = share; OUT(c + 1) = regime;
        {
            i64 tail = s->tail[rolling + T_EDGE], edge = now - window[rolling + T_EDGE], before = 0;
            Row *first = &s->ring[tail & s->mask];
            if (first->clock < edge && tail + 1 < s->head && s->ring[(tail + 1) & s->mask].spent[0] > first->spent[0])
                before = edge - first->clock;
            i64 was = (i64)first->row[REGIME], counted = s->spent[0] - first->spent[0] - before;
            if (counted > 0)
                for (int k = TIGHT; k <= WIDE; k++)
                    OUT(c + 1 + k) =
                        (double)(s->spent[k] - first->spent[k] - (was == k ? before : 0)) / (double)counted;
        }
        int o = c + 4;
        for (int which = 0; which < 2; which++) {
            i64 count = s->counts[4 + which];
            if (count < 3 || is_constant(s, 4 * which)) continue;
            pairs(s->sums + S_REGRESSION + 5 * which, ZERO, 5, pair);
            double n_ = (double)count, covariance = centred(n_, pair[2], pair[0], pair[1]);
            double of_x = centred(n_, pair[3], pair[0], pair[0]), of_y = centred(n_, pair[4], pair[1], pair[1]);
            double slope = NAN, r2 = NAN;
            if (of_y > 0.0) {
                slope = covariance / of_y;
                if (of_x > 0.0) { r2 = (covariance / of_y) * (covariance / of_x); r2 = r2 < 1.0 ? r2 : 1.0; }
            }
            OUT(o + 2 * which) = slope;
            if (!is_constant(s, 4 * which + 2)) OUT(o + 1 + 2 * which) = r2;
        }
        for (int k = 0; k < 4; k++) {
            i64 count = s->counts[k];
            if (count > 0) pairs(s->sums + S_SLOW + 2 * k, ZERO, 2, pair);
            if (count > 0 && k < 3) OUT(o + 4 + 2 * k) = pair[0][0] / (double)count;
            if (count > 1) OUT(k < 3 ? o + 5 + 2 * k : o + 10) = deviation(count, pair);
        }
        if (s->seen > 0 && s->full > 0) {
            i64 filled = s->full < buckets ? s->full : buckets;
            if (!s->valued) {
                double total = 0.0;
                for (i64 b = s->full - filled; b < s->full; b++) total += (double)bucket[b % buckets];
                s->valued = 1;
                s->vpin = total / ((double)filled * (double)volume);
            }
            OUT(c + 15) = s->vpin;
        }
        s->books++;
        s->at = now; s->origin = origin[i]; s->mid = mid[i];
        for (int k = 0; k < 4; k++)
            for (int level = 0; level < depth; level++) s->levels[k][level] = levels[(i64)(k * depth + level) * stride + i];
    }
    return taken;
}
