"""Exact sums of doubles: 256-bit fixed point, 128 bits on either side of the point.

A window's sum is the difference of two running sums, so it must leave no residue of rows that have left (SPEC 11.2).
Floating point cannot promise that; integers can. A number is four uint64 limbs, least significant first, two's
complement, in units of 2**-128. Adding a double is exact if its last bit is at or above 2**-128 (else it is rounded
once, half to even), and rounding back gives the double nearest to the exact sum, as `math.fsum` does. Wrapping around
is harmless as long as the difference fits: |sum| < 2**127.

Tried before: Neumaier and double-double sums (a residue of 1e-16 relative stays), two-stack queues (the value depends
on where the stack was flipped), int128 in decimal units (destroys small sizes or overflows on large ones).
"""

import numpy as np
from numba import njit

LIMBS = 4
POINT = 128  # bits below the binary point
LAST_BIT = 2.0**-127
SPLITTER = 134217729.0  # 2**27 + 1 (Veltkamp)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)


@njit(cache=True, error_model="numpy", forceinline=True)
def add(total, k, x):
    """Add the finite double `x`, |x| < 2**127, to number `k` of `total` (uint64[n, 4]), in place."""
    bits = np.float64(x).view(np.uint64)
    bit = np.int64((bits >> np.uint64(52)) & np.uint64(2047)) - 1075 + POINT  # of the mantissa's last bit
    mantissa = (bits & np.uint64(0xFFFFFFFFFFFFF)) | np.uint64(0x10000000000000)
    if bit < 0:
        if bit < -54:
            return  # less than half a unit, zero among them
        cut = np.uint64(-bit)
        rest = mantissa & ((_ONE << cut) - _ONE)
        half = _ONE << (cut - _ONE)
        mantissa = mantissa >> cut
        if rest > half or (rest == half and (mantissa & _ONE) == _ONE):
            mantissa += _ONE
        bit = np.int64(0)
    limb = bit >> 6
    shift = np.uint64(bit & 63)
    low = mantissa << shift
    high = (mantissa >> _ONE) >> (np.uint64(63) - shift)
    # a negative number is added as its two's complement, without a branch on the sign
    fill = _ZERO - (bits >> np.uint64(63))
    carry = fill & _ONE
    still = carry  # with this carry the limbs above the number stay as they are: mostly it touches two of four
    part = low ^ fill
    for i in range(limb, LIMBS):
        if i > limb + 1 and carry == still:
            return
        before = total[k, i]
        after = before + part
        overflow = _ONE if after < before else _ZERO
        after2 = after + carry
        carry = overflow | (_ONE if after2 < after else _ZERO)
        total[k, i] = after2
        part = high ^ fill if i == limb else fill


@njit(cache=True, error_model="numpy")
def add_terms(total, target, terms, first, last, sign):
    """Add sign * terms[j] to number target[j], first <= j < last; NaN is no term.

    One loop, one call of `add`, which is compiled into every place that calls it (a tenth of the kernel's time less).
    """
    for j in range(first, last):
        if terms[j] == terms[j]:
            add(total, target[j], sign * terms[j])


@njit(cache=True, error_model="numpy")
def product(x, y):
    """x * y as an unevaluated sum: the rounded product and what its rounding lost (Dekker 1971)."""
    p = x * y
    cx = SPLITTER * x
    xh = cx - (cx - x)
    xl = x - xh
    cy = SPLITTER * y
    yh = cy - (cy - y)
    yl = y - yh
    return p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl


@njit(cache=True, error_model="numpy")
def _leading_zeros(v):
    """Of v > 0. The exponent of a double says it, if no bits below the top one can round it up."""
    bits = np.float64(v & ~(v >> _ONE)).view(np.uint64)
    return 1086 - np.int64(bits >> np.uint64(52))


@njit(cache=True, error_model="numpy", forceinline=True)
def _round(a0, a1, a2, a3):
    """The double nearest to the number with these limbs (half to even)."""
    negative = (a3 >> np.uint64(63)) == _ONE
    if negative:
        a0 = ~a0 + _ONE
        c = _ONE if a0 == _ZERO else _ZERO
        a1 = ~a1 + c
        c = _ONE if (c == _ONE and a1 == _ZERO) else _ZERO
        a2 = ~a2 + c
        c = _ONE if (c == _ONE and a2 == _ZERO) else _ZERO
        a3 = ~a3 + c
    if a3 != _ZERO:
        top, below, rest, exponent = a3, a2, a1 | a0, 192 - POINT
    elif a2 != _ZERO:
        top, below, rest, exponent = a2, a1, a0, 128 - POINT
    elif a1 != _ZERO:
        top, below, rest, exponent = a1, a0, _ZERO, 64 - POINT
    else:
        top, below, rest, exponent = a0, _ZERO, _ZERO, -POINT
    if top == _ZERO:
        return 0.0
    zeros = _leading_zeros(top)
    shift = np.uint64(zeros)
    top = (top << shift) | ((below >> _ONE) >> (np.uint64(63) - shift))
    below = below << shift
    # 64 leading bits; round to 53 by hand, since a conversion of uint64 may go through a wider type
    rest_bits = top & np.uint64(2047)
    kept = top >> np.uint64(11)
    half = np.uint64(1024)
    sticky = (below | rest) != _ZERO
    if rest_bits > half or (rest_bits == half and (sticky or (kept & _ONE) == _ONE)):
        kept += _ONE
    # times a power of two, made of its bits: ldexp is a call
    value = np.float64(np.int64(kept)) * np.uint64((exponent - zeros + 1034) << 52).view(np.float64)
    return -value if negative else value


@njit(cache=True, error_model="numpy", forceinline=True)
def _minus(total, k, start, j):
    b0, b1, b2, b3 = start[j, 0], start[j, 1], start[j, 2], start[j, 3]
    a0, a1, a2, a3 = total[k, 0], total[k, 1], total[k, 2], total[k, 3]
    d0 = a0 - b0
    c = _ONE if a0 < b0 else _ZERO
    t = a1 - b1
    c1 = _ONE if a1 < b1 else _ZERO
    d1 = t - c
    c = c1 | (_ONE if t < c else _ZERO)
    t = a2 - b2
    c1 = _ONE if a2 < b2 else _ZERO
    d2 = t - c
    c = c1 | (_ONE if t < c else _ZERO)
    d3 = a3 - b3 - c
    return d0, d1, d2, d3


@njit(cache=True, error_model="numpy")
def value(total, k):
    """Number `k` of `total` as the nearest double."""
    return _round(total[k, 0], total[k, 1], total[k, 2], total[k, 3])


@njit(cache=True, error_model="numpy")
def difference(total, k, start, j):
    """total[k] - start[j] as the nearest double."""
    d0, d1, d2, d3 = _minus(total, k, start, j)
    return _round(d0, d1, d2, d3)


@njit(cache=True, error_model="numpy")
def pairs(total, first, count, start, first_start, scratch, out):
    """total[first + j] - start[first_start + j], j < count, as unevaluated pairs high + low of 106 bits.

    scratch: uint64[1, 4]; out: float64[count, 2].
    """
    for j in range(count):
        d0, d1, d2, d3 = _minus(total, first + j, start, first_start + j)
        high = _round(d0, d1, d2, d3)
        scratch[0, 0], scratch[0, 1], scratch[0, 2], scratch[0, 3] = d0, d1, d2, d3
        add(scratch, 0, -high)
        out[j, 0] = high
        out[j, 1] = value(scratch, 0)


@njit(cache=True, error_model="numpy")
def _two_sum(x, y):
    s = x + y
    t = s - x
    return s, (x - (s - t)) + (y - t)


@njit(cache=True, error_model="numpy")
def centred(n, ab_high, ab_low, a_high, a_low, b_high, b_low):
    """n * sum(ab) - sum(a) * sum(b), in pairs of doubles (106 bits): n**2 times the population covariance.

    What remains below the pairs' own rounding, and below that of n products at the last bit, is 0: a window of equal
    values has no variance, not 1e-33 of one.
    """
    p, pe = product(n, ab_high)
    pe += n * ab_low
    q, qe = product(a_high, b_high)
    qe += a_high * b_low + a_low * b_high
    d, de = _two_sum(p, -q)
    result = d + (de + (pe - qe))
    if abs(result) <= max(2.0e-29 * abs(p), np.float64(n) * np.float64(n) * LAST_BIT):  # 2e-29 is 2**-95.3
        return 0.0
    return result
