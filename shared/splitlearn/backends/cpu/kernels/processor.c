/* Whether the processor has the instructions of this library, for whoever loads it to ask before the first kernel. */

#include "kernels.h"

int32_t splitlearn_is_supported(void) {
#ifdef SIMD_FITS
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    return PROCESSOR_HAS_ALL;
#else
    return 0;
#endif
}
