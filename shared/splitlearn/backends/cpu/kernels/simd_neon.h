/* NEON: a vector is four registers, of which there are 32. Every 64-bit processor of Arm has it, without arithmetic for
   bf16: numbers become fp32, and weights of 8 bits become 16. With BF16 and I8MM, if SIMD_NEON_BF16 is defined, pairs
   of bf16 numbers and fours of bytes are multiplied at once.

   Results are those of simd_avx2.h to the bit, but for sums of products of bf16 numbers with BF16. Its instruction
   rounds such a sum of two to odd, adds it, and rounds to odd again; numbers that are not normal count as zeros. */

#ifndef SPLITLEARN_SIMD_NEON_H
#define SPLITLEARN_SIMD_NEON_H

#include <arm_neon.h>

#ifdef SIMD_NEON_BF16
#define INSTRUCTIONS "arch=armv8.2-a+dotprod+bf16+i8mm"
#if defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <sys/auxv.h>
#endif

static inline int processor_has_all(void) {
#if defined(__APPLE__)
    static const char *const names[] = {"hw.optional.arm.FEAT_DotProd", "hw.optional.arm.FEAT_BF16",
                                        "hw.optional.arm.FEAT_I8MM"};
    int has_all = 1;
    for (int i = 0; i < 3; i++) {
        int has = 0;
        size_t size = sizeof has;
        has_all &= !sysctlbyname(names[i], &has, &size, NULL, 0) && has;
    }
    return has_all;
#else
    /* bits of Linux, which older headers do not name */
    enum { ASIMDDP = 1 << 20, I8MM = 1 << 13, BF16 = 1 << 14 };
    return (getauxval(AT_HWCAP) & ASIMDDP) && (getauxval(AT_HWCAP2) & I8MM) && (getauxval(AT_HWCAP2) & BF16);
#endif
}
#define PROCESSOR_HAS_ALL processor_has_all()
#else
#define PROCESSOR_HAS_ALL 1
#endif

typedef struct {
    float32x4_t q[4];
} f32x16;
typedef struct {
    int32x4_t q[4];
} i32x16;
typedef struct {
    uint16x8_t q[2];
} u16x16;

#define OF_ONE(name, op)                                                                                               \
    INLINE f32x16 name(f32x16 a) { return (f32x16){{op(a.q[0]), op(a.q[1]), op(a.q[2]), op(a.q[3])}}; }
#define OF_TWO(name, op)                                                                                               \
    INLINE f32x16 name(f32x16 a, f32x16 b) {                                                                           \
        return (f32x16){{op(a.q[0], b.q[0]), op(a.q[1], b.q[1]), op(a.q[2], b.q[2]), op(a.q[3], b.q[3])}};             \
    }
#define OF_THREE(name, op)                                                                                             \
    INLINE f32x16 name(f32x16 a, f32x16 b, f32x16 c) {                                                                 \
        return (f32x16){{op(c.q[0], a.q[0], b.q[0]), op(c.q[1], a.q[1], b.q[1]), op(c.q[2], a.q[2], b.q[2]),           \
                         op(c.q[3], a.q[3], b.q[3])}};                                                                 \
    }
/* the second of two that have no order, as on x86 */
#define GREATER(a, b) vbslq_f32(vcgtq_f32(a, b), a, b)
#define GREATER_OF_2(a, b) vbsl_f32(vcgt_f32(a, b), a, b)

INLINE f32x16 f32_set(float number) {
    const float32x4_t four = vdupq_n_f32(number);
    return (f32x16){{four, four, four, four}};
}
INLINE f32x16 f32_zero(void) { return f32_set(0.f); }
INLINE f32x16 f32_load(const float *from) {
    return (f32x16){{vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)}};
}
INLINE void f32_store(float *to, f32x16 numbers) {
    UNROLL (int i = 0; i < 4; i++) vst1q_f32(to + 4 * i, numbers.q[i]);
}
OF_TWO(f32_add, vaddq_f32)
OF_TWO(f32_sub, vsubq_f32)
OF_TWO(f32_mul, vmulq_f32)
OF_TWO(f32_div, vdivq_f32)
OF_TWO(f32_max, GREATER)
OF_ONE(f32_abs, vabsq_f32)
OF_ONE(f32_round, vrndnq_f32)
/* ab + c, and c - ab, rounded once */
OF_THREE(f32_fma, vfmaq_f32)
OF_THREE(f32_fnma, vfmsq_f32)
INLINE float f32_first(f32x16 a) { return vgetq_lane_f32(a.q[0], 0); }

/* In the order of the other sets: halves, then halves of these. */
#define REDUCE(name, op, op_of_2)                                                                                      \
    INLINE float name(f32x16 a) {                                                                                      \
        const float32x4_t four = op(op(a.q[3], a.q[1]), op(a.q[2], a.q[0]));                                           \
        const float32x2_t two = op_of_2(vget_low_f32(four), vget_high_f32(four));                                      \
        return vget_lane_f32(op_of_2(two, vdup_lane_f32(two, 1)), 0);                                                  \
    }
REDUCE(f32_reduce_add, vaddq_f32, vadd_f32)
REDUCE(f32_reduce_max, GREATER, GREATER_OF_2)

/* Two to the power of a whole number; zero where it is no normal number. */
INLINE float32x4_t two_to_the(float32x4_t power) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(power), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(vmaxq_s32(exponent, vdupq_n_s32(0)), 23));
}
/* a times two to the power of a whole number of at most 127 */
#define SCALED(a, power) vmulq_f32(a, two_to_the(power))
OF_TWO(f32_scale, SCALED)

#define WITH_SIGN_OF(a, sign)                                                                                          \
    vreinterpretq_f32_u32(                                                                                             \
        vorrq_u32(vreinterpretq_u32_f32(a), vandq_u32(vreinterpretq_u32_f32(sign), vdupq_n_u32(1u << 31))))
OF_TWO(f32_with_sign_of, WITH_SIGN_OF)

INLINE f32x16 f32_where_negative(f32x16 a, f32x16 then, f32x16 otherwise) {
    UNROLL (int i = 0; i < 4; i++) otherwise.q[i] = vbslq_f32(vcltzq_f32(a.q[i]), then.q[i], otherwise.q[i]);
    return otherwise;
}

/* The numbers [begin, end) of 16. */
INLINE f32x16 f32_where_within(int64_t begin, int64_t end, f32x16 then, f32x16 otherwise) {
    static const int32_t indices[4] = {0, 1, 2, 3};
    const int32x4_t from = vdupq_n_s32(begin > 16 ? 16 : begin > 0 ? (int32_t)begin : 0);
    const int32x4_t to = vdupq_n_s32(end > 16 ? 16 : end > 0 ? (int32_t)end : 0);
    UNROLL (int i = 0; i < 4; i++) {
        const int32x4_t index = vaddq_s32(vld1q_s32(indices), vdupq_n_s32(4 * i));
        const uint32x4_t within = vandq_u32(vcgeq_s32(index, from), vcltq_s32(index, to));
        otherwise.q[i] = vbslq_f32(within, then.q[i], otherwise.q[i]);
    }
    return otherwise;
}

INLINE i32x16 i32_zero(void) {
    const int32x4_t four = vdupq_n_s32(0);
    return (i32x16){{four, four, four, four}};
}
INLINE i32x16 i32_max(i32x16 a, i32x16 b) {
    UNROLL (int i = 0; i < 4; i++) a.q[i] = vmaxq_s32(a.q[i], b.q[i]);
    return a;
}
INLINE int32_t i32_reduce_max(i32x16 a) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.q[0], a.q[1]), vmaxq_s32(a.q[2], a.q[3])));
}
INLINE i32x16 i32_magnitude_bits(f32x16 a) {
    i32x16 bits;
    UNROLL (int i = 0; i < 4; i++) bits.q[i] = vreinterpretq_s32_f32(vabsq_f32(a.q[i]));
    return bits;
}

/* 16 bf16 numbers. */
INLINE u16x16 load_16(const bf16 *from, int64_t n) {
    bf16 some[16] = {0};
    if (n >= 16) return (u16x16){{vld1q_u16(from), vld1q_u16(from + 8)}};
    if (n > 0) memcpy(some, from, (size_t)n * sizeof(bf16));
    return (u16x16){{vld1q_u16(some), vld1q_u16(some + 8)}};
}

/* They are the upper halves of fp32 numbers. */
INLINE f32x16 widened(u16x16 numbers) {
    const uint16x8_t zero = vdupq_n_u16(0);
    f32x16 wide;
    UNROLL (int i = 0; i < 2; i++) {
        wide.q[2 * i] = vreinterpretq_f32_u16(vzip1q_u16(zero, numbers.q[i]));
        wide.q[2 * i + 1] = vreinterpretq_f32_u16(vzip2q_u16(zero, numbers.q[i]));
    }
    return wide;
}

INLINE f32x16 load_bf16(const bf16 *from, int64_t n) { return widened(load_16(from, n)); }

/* Rounded to nearest, ties to even. */
INLINE uint16x8_t to_bf16_of_8(float32x4_t low, float32x4_t high) {
#ifdef SIMD_NEON_BF16
    return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high));
#else
    const float32x4_t numbers[2] = {low, high};
    uint16x8_t rounded[2];
    UNROLL (int i = 0; i < 2; i++) {
        const uint32x4_t bits = vreinterpretq_u32_f32(numbers[i]);
        const uint32x4_t is_odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t up = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), is_odd);
        const uint32x4_t nan = vorrq_u32(bits, vdupq_n_u32(1 << 22));
        rounded[i] = vreinterpretq_u16_u32(vbslq_u32(vceqq_f32(numbers[i], numbers[i]), up, nan));
    }
    return vuzp2q_u16(rounded[0], rounded[1]);
#endif
}
INLINE u16x16 to_bf16(f32x16 numbers) {
    return (u16x16){{to_bf16_of_8(numbers.q[0], numbers.q[1]), to_bf16_of_8(numbers.q[2], numbers.q[3])}};
}

INLINE void store_bf16(bf16 *to, int64_t n, f32x16 numbers) {
    const u16x16 rounded = to_bf16(numbers);
    bf16 some[16], *all = n >= 16 ? to : some;
    vst1q_u16(all, rounded.q[0]);
    vst1q_u16(all + 8, rounded.q[1]);
    if (n > 0 && n < 16) memcpy(to, some, (size_t)n * sizeof(bf16));
}

/* Rounded as torch rounds a tensor between two operations. */
INLINE f32x16 round_bf16(f32x16 numbers) { return widened(to_bf16(numbers)); }

INLINE i32x16 load_panel(const bf16 *from) {
    i32x16 pairs;
    UNROLL (int i = 0; i < 4; i++) pairs.q[i] = vreinterpretq_s32_u16(vld1q_u16(from + 8 * i));
    return pairs;
}
INLINE i32x16 load_pairs(const bf16 *from, int64_t n) {
    bf16 some[32] = {0};
    if (n >= 16) return load_panel(from);
    if (n > 0) memcpy(some, from, 2 * (size_t)n * sizeof(bf16));
    return load_panel(some);
}
INLINE void store_pairs(bf16 *to, i32x16 pairs) {
    UNROLL (int i = 0; i < 4; i++) vst1q_u16(to + 8 * i, vreinterpretq_u16_s32(pairs.q[i]));
}

/* Pairs of a number of one row and the number below it in the next. */
INLINE i32x16 load_two_rows(const bf16 *row, int64_t n, const bf16 *next, int64_t n_next) {
    const u16x16 first = load_16(row, n), second = load_16(next, n_next);
    i32x16 pairs;
    UNROLL (int i = 0; i < 2; i++) {
        pairs.q[2 * i] = vreinterpretq_s32_u16(vzip1q_u16(first.q[i], second.q[i]));
        pairs.q[2 * i + 1] = vreinterpretq_s32_u16(vzip2q_u16(first.q[i], second.q[i]));
    }
    return pairs;
}

/* The same of 32 numbers of each row, in their order. */
INLINE void load_two_rows_of_32(const bf16 *row, int64_t n, const bf16 *next, int64_t n_next, i32x16 pairs[2]) {
    pairs[0] = load_two_rows(row, n, next, n_next);
    pairs[1] = load_two_rows(row + 16, n - 16, next + 16, n_next - 16);
}
INLINE void restore_order(f32x16 sums[2]) { (void)sums; }

/* 16 rows of 16 pairs become 16 pairs of 16 rows. */
INLINE void transpose(i32x16 pairs[16]) {
    int64x2_t turned[16][4];
    UNROLL (int i = 0; i < 4; i++)
        UNROLL (int j = 0; j < 4; j++) {
            const i32x16 *some = pairs + 4 * i;
            const int64x2_t even = vreinterpretq_s64_s32(vtrn1q_s32(some[0].q[j], some[1].q[j]));
            const int64x2_t odd = vreinterpretq_s64_s32(vtrn2q_s32(some[0].q[j], some[1].q[j]));
            const int64x2_t even_2 = vreinterpretq_s64_s32(vtrn1q_s32(some[2].q[j], some[3].q[j]));
            const int64x2_t odd_2 = vreinterpretq_s64_s32(vtrn2q_s32(some[2].q[j], some[3].q[j]));
            turned[4 * j][i] = vtrn1q_s64(even, even_2);
            turned[4 * j + 1][i] = vtrn1q_s64(odd, odd_2);
            turned[4 * j + 2][i] = vtrn2q_s64(even, even_2);
            turned[4 * j + 3][i] = vtrn2q_s64(odd, odd_2);
        }
    UNROLL (int i = 0; i < 16; i++)
        UNROLL (int j = 0; j < 4; j++) pairs[i].q[j] = vreinterpretq_s32_s64(turned[i][j]);
}

#endif
