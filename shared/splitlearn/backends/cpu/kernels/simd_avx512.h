/* AVX-512 with VNNI, and with BF16 if SIMD_AVX512_BF16 is defined: a vector is a register, of which there are 32. */

#ifndef SPLITLEARN_SIMD_AVX512_H
#define SPLITLEARN_SIMD_AVX512_H

#define PROCESSOR_HAS_AVX512                                                                                           \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&  \
     __builtin_cpu_supports("avx512vnni"))
#if defined(SIMD_AMX)
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8"
#define PROCESSOR_HAS_ALL                                                                                              \
    (PROCESSOR_HAS_AVX512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("amx-tile") &&             \
     __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") && may_use_tiles())
#elif defined(SIMD_AVX512_BF16)
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16"
#define PROCESSOR_HAS_ALL (PROCESSOR_HAS_AVX512 && __builtin_cpu_supports("avx512bf16"))
#else
#define INSTRUCTIONS "avx512f,avx512bw,avx512vl,avx512vnni"
#define PROCESSOR_HAS_ALL PROCESSOR_HAS_AVX512
#endif

typedef __m512 f32x16;
typedef __m512i i32x16;

INLINE __mmask16 first_of_16(int64_t n) { return (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1 << n) - 1 : 0); }
INLINE __mmask32 first_of_32(int64_t n) { return n >= 32 ? 0xffffffffu : n > 0 ? (1u << n) - 1 : 0; }

INLINE f32x16 f32_zero(void) { return _mm512_setzero_ps(); }
INLINE f32x16 f32_set(float number) { return _mm512_set1_ps(number); }
INLINE f32x16 f32_load(const float *from) { return _mm512_loadu_ps(from); }
INLINE void f32_store(float *to, f32x16 numbers) { _mm512_storeu_ps(to, numbers); }
INLINE f32x16 f32_add(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
INLINE f32x16 f32_sub(f32x16 a, f32x16 b) { return _mm512_sub_ps(a, b); }
INLINE f32x16 f32_mul(f32x16 a, f32x16 b) { return _mm512_mul_ps(a, b); }
INLINE f32x16 f32_div(f32x16 a, f32x16 b) { return _mm512_div_ps(a, b); }
INLINE f32x16 f32_max(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }
INLINE f32x16 f32_abs(f32x16 a) { return _mm512_abs_ps(a); }
/* ab + c, and c - ab, rounded once */
INLINE f32x16 f32_fma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE f32x16 f32_fnma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE float f32_reduce_add(f32x16 a) { return _mm512_reduce_add_ps(a); }
INLINE float f32_reduce_max(f32x16 a) { return _mm512_reduce_max_ps(a); }
INLINE float f32_first(f32x16 a) { return _mm512_cvtss_f32(a); }
INLINE f32x16 f32_round(f32x16 a) { return _mm512_roundscale_ps(a, 0); }
/* a times two to the power of a whole number */
INLINE f32x16 f32_scale(f32x16 a, f32x16 power) { return _mm512_scalef_ps(a, power); }

INLINE f32x16 f32_with_sign_of(f32x16 a, f32x16 sign) {
    const __m512i bit = _mm512_and_si512(_mm512_castps_si512(sign), _mm512_set1_epi32(INT32_MIN));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), bit));
}

INLINE f32x16 f32_where_negative(f32x16 a, f32x16 then, f32x16 otherwise) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), otherwise, then);
}

/* The numbers [begin, end) of 16. */
INLINE f32x16 f32_where_within(int64_t begin, int64_t end, f32x16 then, f32x16 otherwise) {
    return _mm512_mask_blend_ps(first_of_16(end) & ~first_of_16(begin), otherwise, then);
}

INLINE i32x16 i32_zero(void) { return _mm512_setzero_si512(); }
INLINE i32x16 i32_max(i32x16 a, i32x16 b) { return _mm512_max_epi32(a, b); }
INLINE int32_t i32_reduce_max(i32x16 a) { return _mm512_reduce_max_epi32(a); }
INLINE i32x16 i32_magnitude_bits(f32x16 a) {
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MAX));
}

INLINE f32x16 load_bf16(const bf16 *from, int64_t n) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_of_16(n), from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Rounded to nearest, ties to even. */
INLINE __m256i to_bf16(f32x16 numbers) {
#ifdef SIMD_AVX512_BF16
    return (__m256i)_mm512_cvtneps_pbh(numbers);
#else
    const __m512i bits = _mm512_castps_si512(numbers);
    const __m512i is_odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), is_odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(1 << 22)), 16));
#endif
}

INLINE void store_bf16(bf16 *to, int64_t n, f32x16 numbers) {
    _mm256_mask_storeu_epi16(to, first_of_16(n), to_bf16(numbers));
}

/* Rounded as torch rounds a tensor between two operations. */
INLINE f32x16 round_bf16(f32x16 numbers) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(numbers)), 16));
}

INLINE i32x16 load_panel(const bf16 *from) { return _mm512_loadu_si512(from); }
INLINE i32x16 load_pairs(const bf16 *from, int64_t n) { return _mm512_maskz_loadu_epi32(first_of_16(n), from); }
INLINE void store_pairs(bf16 *to, i32x16 pairs) { _mm512_storeu_si512(to, pairs); }

/* Pairs of a number of one row and the number below it in the next. */
INLINE i32x16 load_two_rows(const bf16 *row, int64_t n, const bf16 *next, int64_t n_next) {
    const __m256i first = _mm256_maskz_loadu_epi16(first_of_16(n), row);
    const __m256i second = _mm256_maskz_loadu_epi16(first_of_16(n_next), next);
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

/* The same of 32 numbers of each row, faster, in an order that `restore_order` undoes. */
INLINE void load_two_rows_of_32(const bf16 *row, int64_t n, const bf16 *next, int64_t n_next, i32x16 pairs[2]) {
    const __m512i first = _mm512_maskz_loadu_epi16(first_of_32(n), row);
    const __m512i second = _mm512_maskz_loadu_epi16(first_of_32(n_next), next);
    pairs[0] = _mm512_unpacklo_epi16(first, second);
    pairs[1] = _mm512_unpackhi_epi16(first, second);
}

INLINE void restore_order(f32x16 sums[2]) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    const __m512 low = sums[0], high = sums[1];
    sums[0] = _mm512_permutex2var_ps(low, first, high);
    sums[1] = _mm512_permutex2var_ps(low, second, high);
}

/* 16 rows of 16 pairs become 16 pairs of 16 rows. */
INLINE void transpose(i32x16 pairs[16]) {
    __m512i twos[16], fours[16];
    UNROLL (int i = 0; i < 16; i += 2) {
        twos[i] = _mm512_unpacklo_epi32(pairs[i], pairs[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    UNROLL (int i = 0; i < 16; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(twos[i], twos[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(twos[i], twos[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(twos[i + 1], twos[i + 3]);
    }
    UNROLL (int i = 0; i < 4; i++) {
        const __m512i even = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0x88);
        const __m512i even_2 = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0xdd);
        const __m512i odd_2 = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0xdd);
        pairs[i] = _mm512_shuffle_i32x4(even, even_2, 0x88);
        pairs[i + 4] = _mm512_shuffle_i32x4(odd, odd_2, 0x88);
        pairs[i + 8] = _mm512_shuffle_i32x4(even, even_2, 0xdd);
        pairs[i + 12] = _mm512_shuffle_i32x4(odd, odd_2, 0xdd);
    }
}

#ifndef SIMD_AMX
/* How many rows are multiplied at once, and how many by several panels, so that all sums stay in registers. Query rows
   from which on keys and values are packed. */
enum { MAX_ROWS = 14, MAX_WIDE_ROWS = 14, FEW_QUERIES = 3, PACKED_FROM = MAX_ROWS + 1, GROUP_BYTES = INT32_MAX };

#define LABEL(n) case n
#define FOR_EACH_HEIGHT(CASE, height)                                                                                  \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)

INLINE void release_tiles(void) {}
#endif

#ifdef SIMD_AVX512_BF16
enum { STEPS = 1 };
typedef bf16 operand;
typedef __m512i weights16, input;

/* Rows in memory as operands; NULL: they have another type. */
static inline const operand *as_operands(const bf16 *rows) { return rows; }
INLINE void store_operands(operand *to, int64_t n, f32x16 numbers) { store_bf16(to, n, numbers); }
INLINE weights16 weights_of_step(i32x16 pairs, int step) { return (void)step, pairs; }
INLINE input broadcast(const operand *pair, int step) {
    int32_t both;
    memcpy(&both, pair + step, sizeof both);
    return _mm512_set1_epi32(both);
}
INLINE f32x16 add_products(f32x16 sums, weights16 weights, input one) {
    return _mm512_dpbf16_ps(sums, (__m512bh)weights, (__m512bh)one);
}
#else
enum { STEPS = 2 };
typedef float operand;
typedef __m512 weights16, input;

static inline const operand *as_operands(const bf16 *rows) { return (void)rows, NULL; }
INLINE void store_operands(operand *to, int64_t n, f32x16 numbers) {
    _mm512_mask_storeu_ps(to, first_of_16(n), round_bf16(numbers));
}
INLINE weights16 weights_of_step(i32x16 pairs, int step) {
    return _mm512_castsi512_ps(step ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000))
                                    : _mm512_slli_epi32(pairs, 16));
}
INLINE input broadcast(const operand *pair, int step) { return _mm512_set1_ps(pair[step]); }
INLINE f32x16 add_products(f32x16 sums, weights16 weights, input one) { return _mm512_fmadd_ps(weights, one, sums); }
#endif

/* Rows for int8 weights, as two bytes of each level: [high, low][inputs]. VNNI multiplies unsigned bytes, so that
   levels have an offset, whose part of the sums is subtracted in the end. No sum overflows, however wide a row. */
enum { OFFSET_BITS = 15, HIGH = 0, LOW = 1 };
#ifdef SIMD_AMX
enum { MAX_INT8_ROWS = 16, MAX_WIDE_INT8_ROWS = 16 };
#define FOR_EACH_INT8_HEIGHT(CASE, height) CASE(height)
#else
enum { MAX_INT8_ROWS = 7, MAX_WIDE_INT8_ROWS = 7 };
#define FOR_EACH_INT8_HEIGHT(CASE, height) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#endif
enum { LEVEL_PARTS = 2, WEIGHT_PARTS = 1, MAX_FOURS = 1 << 14 };
typedef uint8_t level;
typedef __m512i level_sums, weight_fours, level_four;

INLINE void store_levels(level *row, int64_t width, int64_t column, f32x16 numbers) {
    const __m512i levels = _mm512_add_epi32(_mm512_cvtps_epi32(numbers), _mm512_set1_epi32(1 << OFFSET_BITS));
    const __mmask16 mask = first_of_16(width - column);
    _mm512_mask_cvtepi32_storeu_epi8(row + HIGH * width + column, mask, _mm512_srli_epi32(levels, 8));
    _mm512_mask_cvtepi32_storeu_epi8(row + LOW * width + column, mask, levels);
}

INLINE level_sums zero_level_sums(void) { return _mm512_setzero_si512(); }
INLINE weight_fours load_weight_fours(const int8_t *weights, int part) {
    return _mm512_loadu_si512(weights + part * 4 * PANEL);
}
INLINE level_four broadcast_levels(const level *row, int64_t width, int64_t column, int part) {
    int32_t four;
    memcpy(&four, row + part * width + column, sizeof four);
    return _mm512_set1_epi32(four);
}

/* As _mm512_dpbusd_epi32, for which GCC 12 copies each sum three times. */
INLINE level_sums add_level_products(level_sums sums, weight_fours weights, level_four levels) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(levels), "v"(weights));
    return sums;
}

/* The sums of 16 outputs in two parts, 256 high + low. */
typedef struct {
    i32x16 high, low;
} Totals;

INLINE void add_to_totals(Totals *totals, const level_sums sums[2]) {
    totals->high = _mm512_add_epi32(totals->high, sums[HIGH]);
    totals->low = _mm512_add_epi32(totals->low, sums[LOW]);
}

/* `weight_sums`: of the weights of each output. */
INLINE f32x16 whole(Totals totals, const int32_t *weight_sums) {
    const __m512i offset = _mm512_slli_epi32(_mm512_loadu_si512(weight_sums), OFFSET_BITS - 8);
    const __m512i high = _mm512_sub_epi32(totals.high, offset);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.f), _mm512_cvtepi32_ps(totals.low));
}

/* Rows for int4 weights, as bytes with signs; a block of 32 inputs is summed at once. */
enum { MAX_INT4_ROWS = 8, MAX_WIDE_INT4_ROWS = 8 };
#define FOR_EACH_INT4_HEIGHT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
typedef __m512i int4_sums, int4_fours, int8_four;

INLINE f32x16 load_fp16(const fp16 *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

/* 16 whole numbers. */
INLINE void store_int8(int8_t *to, f32x16 numbers) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(numbers)));
}

INLINE f32x16 load_int8(const int8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}

INLINE void load_int4_fours(const uint8_t *from, int4_fours halves[2]) {
    const __m512i both = _mm512_loadu_si512(from), low = _mm512_set1_epi8(0xf);
    halves[0] = _mm512_and_si512(both, low);
    halves[1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
}

INLINE int8_four broadcast_int8_four(const int8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return _mm512_set1_epi32(four);
}

INLINE int4_sums zero_int4_sums(void) { return _mm512_setzero_si512(); }
INLINE int4_sums add_int4_products(int4_sums sums, int4_fours weights, int8_four levels) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(levels));
    return sums;
}
INLINE f32x16 f32_of_int4_sums(int4_sums sums) { return _mm512_cvtepi32_ps(sums); }

#endif
