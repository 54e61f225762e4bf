/* AVX2 with FMA and F16C: a vector is two registers, of which there are 16. There is no arithmetic for bf16 and none
   for sums of 8-bit products: numbers become fp32, and weights of 8 bits become 16. */

#ifndef SPLITLEARN_SIMD_AVX2_H
#define SPLITLEARN_SIMD_AVX2_H

#define INSTRUCTIONS "avx2,fma,f16c"
#define PROCESSOR_HAS_ALL                                                                                              \
    (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))

typedef struct {
    __m256 low, high;
} f32x16;
typedef struct {
    __m256i low, high;
} i32x16;

/* Of 8 numbers from index `begin` on, which of them are below n: all bits or none. */
INLINE __m256i below(int64_t n, int begin) {
    const __m256i indices = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(begin));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 16 ? 16 : n > 0 ? (int)n : 0), indices);
}

#define OF_ONE(name, op)                                                                                               \
    INLINE f32x16 name(f32x16 a) { return (f32x16){op(a.low), op(a.high)}; }
#define OF_TWO(name, op)                                                                                               \
    INLINE f32x16 name(f32x16 a, f32x16 b) { return (f32x16){op(a.low, b.low), op(a.high, b.high)}; }
#define OF_THREE(name, op)                                                                                             \
    INLINE f32x16 name(f32x16 a, f32x16 b, f32x16 c) {                                                                 \
        return (f32x16){op(a.low, b.low, c.low), op(a.high, b.high, c.high)};                                          \
    }
#define NEAREST(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define MAGNITUDE(a) _mm256_andnot_ps(_mm256_set1_ps(-0.f), a)

INLINE f32x16 f32_zero(void) { return (f32x16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE f32x16 f32_set(float number) { return (f32x16){_mm256_set1_ps(number), _mm256_set1_ps(number)}; }
INLINE f32x16 f32_load(const float *from) { return (f32x16){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
INLINE void f32_store(float *to, f32x16 numbers) {
    _mm256_storeu_ps(to, numbers.low);
    _mm256_storeu_ps(to + 8, numbers.high);
}
OF_TWO(f32_add, _mm256_add_ps)
OF_TWO(f32_sub, _mm256_sub_ps)
OF_TWO(f32_mul, _mm256_mul_ps)
OF_TWO(f32_div, _mm256_div_ps)
OF_TWO(f32_max, _mm256_max_ps)
OF_ONE(f32_abs, MAGNITUDE)
OF_ONE(f32_round, NEAREST)
/* ab + c, and c - ab, rounded once */
OF_THREE(f32_fma, _mm256_fmadd_ps)
OF_THREE(f32_fnma, _mm256_fnmadd_ps)
INLINE float f32_first(f32x16 a) { return _mm256_cvtss_f32(a.low); }

/* In the order of the other sets: halves, then halves of these. */
#define REDUCE(name, op_256, op_128)                                                                                   \
    INLINE float name(f32x16 a) {                                                                                      \
        const __m256 eight = op_256(a.high, a.low);                                                                    \
        const __m128 four = op_128(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));                    \
        const __m128 two = op_128(four, _mm_movehl_ps(four, four));                                                    \
        return _mm_cvtss_f32(op_128(two, _mm_shuffle_ps(two, two, 1)));                                                \
    }
REDUCE(f32_reduce_add, _mm256_add_ps, _mm_add_ps)
REDUCE(f32_reduce_max, _mm256_max_ps, _mm_max_ps)

/* Two to the power of a whole number; zero where it is no normal number. */
INLINE __m256 two_to_the(__m256 power) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_max_epi32(exponent, _mm256_setzero_si256()), 23));
}
/* a times two to the power of a whole number of at most 127 */
INLINE f32x16 f32_scale(f32x16 a, f32x16 power) {
    return (f32x16){_mm256_mul_ps(a.low, two_to_the(power.low)), _mm256_mul_ps(a.high, two_to_the(power.high))};
}

INLINE f32x16 f32_with_sign_of(f32x16 a, f32x16 sign) {
    const __m256 bit = _mm256_set1_ps(-0.f);
    return (f32x16){_mm256_or_ps(a.low, _mm256_and_ps(sign.low, bit)),
                    _mm256_or_ps(a.high, _mm256_and_ps(sign.high, bit))};
}

INLINE f32x16 f32_where_negative(f32x16 a, f32x16 then, f32x16 otherwise) {
    const __m256 zero = _mm256_setzero_ps();
    return (f32x16){_mm256_blendv_ps(otherwise.low, then.low, _mm256_cmp_ps(a.low, zero, _CMP_LT_OQ)),
                    _mm256_blendv_ps(otherwise.high, then.high, _mm256_cmp_ps(a.high, zero, _CMP_LT_OQ))};
}

/* The numbers [begin, end) of 16. */
INLINE f32x16 f32_where_within(int64_t begin, int64_t end, f32x16 then, f32x16 otherwise) {
    const __m256i low = _mm256_andnot_si256(below(begin, 0), below(end, 0));
    const __m256i high = _mm256_andnot_si256(below(begin, 8), below(end, 8));
    return (f32x16){_mm256_blendv_ps(otherwise.low, then.low, _mm256_castsi256_ps(low)),
                    _mm256_blendv_ps(otherwise.high, then.high, _mm256_castsi256_ps(high))};
}

INLINE i32x16 i32_zero(void) { return (i32x16){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE i32x16 i32_max(i32x16 a, i32x16 b) {
    return (i32x16){_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}
INLINE int32_t i32_reduce_max(i32x16 a) {
    const __m256i eight = _mm256_max_epi32(a.low, a.high);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
INLINE i32x16 i32_magnitude_bits(f32x16 a) {
    const f32x16 magnitude = f32_abs(a);
    return (i32x16){_mm256_castps_si256(magnitude.low), _mm256_castps_si256(magnitude.high)};
}

/* 16 bf16 numbers. */
INLINE __m256i load_16(const bf16 *from, int64_t n) {
    bf16 some[16] = {0};
    if (n >= 16) return _mm256_loadu_si256((const __m256i *)from);
    if (n > 0) memcpy(some, from, (size_t)n * sizeof(bf16));
    return _mm256_loadu_si256((const __m256i *)some);
}

INLINE i32x16 widened(__m256i numbers) {
    return (i32x16){_mm256_cvtepu16_epi32(_mm256_castsi256_si128(numbers)),
                    _mm256_cvtepu16_epi32(_mm256_extracti128_si256(numbers, 1))};
}

INLINE __m256 first_of_pairs(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
INLINE __m256 second_of_pairs(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

INLINE f32x16 load_bf16(const bf16 *from, int64_t n) {
    const i32x16 wide = widened(load_16(from, n));
    return (f32x16){first_of_pairs(wide.low), first_of_pairs(wide.high)};
}

/* The bits of numbers rounded to nearest, ties to even; their upper half is the bf16 number. */
INLINE __m256i rounded_bits(__m256 numbers) {
    const __m256i bits = _mm256_castps_si256(numbers);
    const __m256i is_odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), is_odd);
    const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(1 << 22));
    return _mm256_blendv_epi8(up, nan, _mm256_castps_si256(_mm256_cmp_ps(numbers, numbers, _CMP_UNORD_Q)));
}

INLINE void store_bf16(bf16 *to, int64_t n, f32x16 numbers) {
    const __m256i low = _mm256_srli_epi32(rounded_bits(numbers.low), 16);
    const __m256i high = _mm256_srli_epi32(rounded_bits(numbers.high), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    bf16 some[16];
    if (n >= 16) {
        _mm256_storeu_si256((__m256i *)to, packed);
        return;
    }
    _mm256_storeu_si256((__m256i *)some, packed);
    if (n > 0) memcpy(to, some, (size_t)n * sizeof(bf16));
}

/* Rounded as torch rounds a tensor between two operations. */
INLINE f32x16 round_bf16(f32x16 numbers) {
    return (f32x16){second_of_pairs(rounded_bits(numbers.low)), second_of_pairs(rounded_bits(numbers.high))};
}

INLINE i32x16 load_panel(const bf16 *from) {
    return (i32x16){_mm256_loadu_si256((const __m256i *)from), _mm256_loadu_si256((const __m256i *)(from + 16))};
}
INLINE i32x16 load_pairs(const bf16 *from, int64_t n) {
    return (i32x16){_mm256_maskload_epi32((const int *)(const void *)from, below(n, 0)),
                    _mm256_maskload_epi32((const int *)(const void *)(from + 16), below(n, 8))};
}
INLINE void store_pairs(bf16 *to, i32x16 pairs) {
    _mm256_storeu_si256((__m256i *)to, pairs.low);
    _mm256_storeu_si256((__m256i *)(to + 16), pairs.high);
}

/* Pairs of a number of one row and the number below it in the next. */
INLINE i32x16 load_two_rows(const bf16 *row, int64_t n, const bf16 *next, int64_t n_next) {
    const __m256i first = load_16(row, n), second = load_16(next, n_next);
    const __m256i even = _mm256_unpacklo_epi16(first, second), odd = _mm256_unpackhi_epi16(first, second);
    return (i32x16){_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
}

/* The same of 32 numbers of each row, in an order that `restore_order` undoes. */
INLINE void load_two_rows_of_32(const bf16 *row, int64_t n, const bf16 *next, int64_t n_next, i32x16 pairs[2]) {
    UNROLL (int i = 0; i < 2; i++) {
        const __m256i first = load_16(row + 16 * i, n - 16 * i), second = load_16(next + 16 * i, n_next - 16 * i);
        pairs[i] = (i32x16){_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)};
    }
}

INLINE void restore_order(f32x16 sums[2]) {
    UNROLL (int i = 0; i < 2; i++) {
        const f32x16 mixed = sums[i];
        sums[i] = (f32x16){_mm256_permute2f128_ps(mixed.low, mixed.high, 0x20),
                           _mm256_permute2f128_ps(mixed.low, mixed.high, 0x31)};
    }
}

/* 8 rows of 8 pairs become 8 pairs of 8 rows. */
INLINE void transpose_8(__m256i pairs[8]) {
    __m256i twos[8], fours[8];
    UNROLL (int i = 0; i < 8; i += 2) {
        twos[i] = _mm256_unpacklo_epi32(pairs[i], pairs[i + 1]);
        twos[i + 1] = _mm256_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    UNROLL (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    UNROLL (int i = 0; i < 4; i++) {
        pairs[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        pairs[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

/* 16 rows of 16 pairs become 16 pairs of 16 rows. */
INLINE void transpose(i32x16 pairs[16]) {
    __m256i upper_left[8], upper_right[8], lower_left[8], lower_right[8];
    UNROLL (int i = 0; i < 8; i++) {
        upper_left[i] = pairs[i].low;
        upper_right[i] = pairs[i].high;
        lower_left[i] = pairs[i + 8].low;
        lower_right[i] = pairs[i + 8].high;
    }
    transpose_8(upper_left);
    transpose_8(upper_right);
    transpose_8(lower_left);
    transpose_8(lower_right);
    UNROLL (int i = 0; i < 8; i++) {
        pairs[i] = (i32x16){upper_left[i], lower_left[i]};
        pairs[i + 8] = (i32x16){upper_right[i], lower_right[i]};
    }
}

/* How many rows are multiplied at once, and how many by several panels, so that all sums stay in registers. */
enum { MAX_ROWS = 6, MAX_WIDE_ROWS = 2, FEW_QUERIES = 1, PACKED_FROM = MAX_ROWS + 1, GROUP_BYTES = INT32_MAX };

#define LABEL(n) case n
#define FOR_EACH_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)

INLINE void release_tiles(void) {}

enum { STEPS = 2 };
typedef float operand;
typedef f32x16 weights16;
typedef __m256 input;

static inline const operand *as_operands(const bf16 *rows) { return (void)rows, NULL; }
INLINE void store_operands(operand *to, int64_t n, f32x16 numbers) {
    const f32x16 rounded = round_bf16(numbers);
    if (n >= 16) {
        f32_store(to, rounded);
        return;
    }
    _mm256_maskstore_ps(to, below(n, 0), rounded.low);
    _mm256_maskstore_ps(to + 8, below(n, 8), rounded.high);
}
INLINE weights16 weights_of_step(i32x16 pairs, int step) {
    if (step) return (f32x16){second_of_pairs(pairs.low), second_of_pairs(pairs.high)};
    return (f32x16){first_of_pairs(pairs.low), first_of_pairs(pairs.high)};
}
INLINE input broadcast(const operand *pair, int step) { return _mm256_broadcast_ss(pair + step); }
INLINE f32x16 add_products(f32x16 sums, weights16 weights, input one) {
    return (f32x16){_mm256_fmadd_ps(weights.low, one, sums.low), _mm256_fmadd_ps(weights.high, one, sums.high)};
}

/* Rows for int8 weights, as 16-bit levels. Weights are widened a quarter of a panel at a time: four outputs, of which
   each has two of the eight sums. Before a sum of products of 16 and 8 bits could overflow, it is added to totals. */
enum { MAX_INT8_ROWS = 3, MAX_WIDE_INT8_ROWS = 1, LEVEL_PARTS = 1, WEIGHT_PARTS = 4, MAX_FOURS = 128 };
typedef int16_t level;
typedef __m256i level_sums, weight_fours, level_four;

#define FOR_EACH_INT8_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3)

INLINE void store_levels(level *row, int64_t width, int64_t column, f32x16 numbers) {
    const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(numbers.low), _mm256_cvtps_epi32(numbers.high));
    level some[16];
    _mm256_storeu_si256((__m256i *)some, _mm256_permute4x64_epi64(packed, 0xd8));
    memcpy(row + column, some, (size_t)(width - column < 16 ? width - column : 16) * sizeof(level));
}

INLINE level_sums zero_level_sums(void) { return _mm256_setzero_si256(); }
INLINE weight_fours load_weight_fours(const int8_t *weights, int part) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + part * PANEL)));
}
INLINE level_four broadcast_levels(const level *row, int64_t width, int64_t column, int part) {
    int64_t four;
    (void)width, (void)part;
    memcpy(&four, row + column, sizeof four);
    return _mm256_set1_epi64x(four);
}
INLINE level_sums add_level_products(level_sums sums, weight_fours weights, level_four levels) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(weights, levels));
}

/* The sums of 16 outputs in two parts, 256 high + low. */
typedef struct {
    i32x16 high, low;
} Totals;

INLINE void add_to_totals(Totals *totals, const level_sums sums[4]) {
    const __m256i low_byte = _mm256_set1_epi32(0xff);
    const __m256i first = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[0], sums[1]), 0xd8);
    const __m256i second = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[2], sums[3]), 0xd8);
    totals->high.low = _mm256_add_epi32(totals->high.low, _mm256_srai_epi32(first, 8));
    totals->high.high = _mm256_add_epi32(totals->high.high, _mm256_srai_epi32(second, 8));
    totals->low.low = _mm256_add_epi32(totals->low.low, _mm256_and_si256(first, low_byte));
    totals->low.high = _mm256_add_epi32(totals->low.high, _mm256_and_si256(second, low_byte));
}

/* `weight_sums`: of the weights of each output; levels without an offset need none. */
INLINE f32x16 whole(Totals totals, const int32_t *weight_sums) {
    const __m256 scale = _mm256_set1_ps(256.f);
    (void)weight_sums;
    return (f32x16){_mm256_fmadd_ps(_mm256_cvtepi32_ps(totals.high.low), scale, _mm256_cvtepi32_ps(totals.low.low)),
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals.high.high), scale, _mm256_cvtepi32_ps(totals.low.high))};
}

/* Rows for int4 weights, as bytes with signs; a block of 32 inputs is summed at once, in pairs of inputs whose sums fit
   16 bits: 16 products of at most 15 * 127. */
enum { MAX_INT4_ROWS = 4, MAX_WIDE_INT4_ROWS = 1 };
#define FOR_EACH_INT4_HEIGHT(CASE) CASE(1) CASE(2) CASE(3) CASE(4)
typedef i32x16 int4_sums, int4_fours;
typedef __m256i int8_four;

INLINE f32x16 load_fp16(const fp16 *from) {
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
}

/* 16 whole numbers. */
INLINE void store_int8(int8_t *to, f32x16 numbers) {
    const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(numbers.low), _mm256_cvtps_epi32(numbers.high));
    const __m256i ordered = _mm256_permute4x64_epi64(packed, 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128((__m128i *)to, bytes);
}

INLINE f32x16 load_int8(const int8_t *from) {
    const __m128i bytes = _mm_loadu_si128((const __m128i *)from);
    return (f32x16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

INLINE void load_int4_fours(const uint8_t *from, int4_fours halves[2]) {
    const __m256i low = _mm256_set1_epi8(0xf), first = _mm256_loadu_si256((const __m256i *)from);
    const __m256i second = _mm256_loadu_si256((const __m256i *)(from + 32));
    halves[0] = (int4_fours){_mm256_and_si256(first, low), _mm256_and_si256(second, low)};
    halves[1] = (int4_fours){_mm256_and_si256(_mm256_srli_epi16(first, 4), low),
                             _mm256_and_si256(_mm256_srli_epi16(second, 4), low)};
}

INLINE int8_four broadcast_int8_four(const int8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return _mm256_set1_epi32(four);
}

INLINE int4_sums zero_int4_sums(void) { return i32_zero(); }
INLINE int4_sums add_int4_products(int4_sums sums, int4_fours weights, int8_four levels) {
    return (int4_sums){_mm256_add_epi16(sums.low, _mm256_maddubs_epi16(weights.low, levels)),
                       _mm256_add_epi16(sums.high, _mm256_maddubs_epi16(weights.high, levels))};
}
INLINE f32x16 f32_of_int4_sums(int4_sums sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    return (f32x16){_mm256_cvtepi32_ps(_mm256_madd_epi16(sums.low, ones)),
                    _mm256_cvtepi32_ps(_mm256_madd_epi16(sums.high, ones))};
}

#endif
