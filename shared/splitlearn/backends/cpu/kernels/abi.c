/* The ABI that this library was compiled with, for whoever loads it to compare. */

#include "abi.h"

#if defined(__x86_64__)

const char *splitlearn_abi(void) { return SPLITLEARN_ABI; }

#endif
