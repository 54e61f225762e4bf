/* Vectors of 16 numbers and what is done with them, by the instructions that the library is compiled for. All that
   differs between instruction sets is in the headers that are included here; kernels use their names alone:

   f32x16, i32x16  16 numbers; i32x16 also holds 16 pairs of bf16 numbers, the first of each in the low half
   operand         what rows are multiplied as: bf16 where there is arithmetic for it, else fp32
   n               how many of the 16 numbers are read or written; 16 or more: all. Others are zeros.

   A sum has the same order in every set, but in steps: a set multiplies a pair of bf16 numbers in STEPS steps, the
   first numbers before the second where there are two. */

#ifndef SPLITLEARN_SIMD_H
#define SPLITLEARN_SIMD_H

#include <stdint.h>
#include <string.h>

#include "abi.h"

#ifdef SIMD_NEON
#define TARGET
#else
#define TARGET __attribute__((target(INSTRUCTIONS)))
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET
#define UNROLL(...) _Pragma("GCC unroll 16") for (__VA_ARGS__)

/* Outputs of a panel of a weight, and how many panels are multiplied together, see `multiply_panels`. */
enum { PANEL = 16, MAX_PANELS = 2 };

#if defined(SIMD_NEON) || defined(SIMD_NEON_BF16)
#include "simd_neon_products.h"
#else
#include <immintrin.h>
#if defined(SIMD_AMX)
#define SIMD_AVX512_BF16
#include "simd_amx.h"
#elif defined(SIMD_AVX2)
#include "simd_avx2.h"
#elif defined(SIMD_AVX512) || defined(SIMD_AVX512_BF16)
#include "simd_avx512.h"
#else
#error "define the instruction set: SIMD_AVX2, SIMD_AVX512, SIMD_AVX512_BF16, SIMD_AMX, SIMD_NEON or SIMD_NEON_BF16"
#endif
#endif

#endif
