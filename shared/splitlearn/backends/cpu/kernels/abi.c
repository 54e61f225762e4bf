/* The ABI that this library was compiled with, for whoever loads it to compare. */

#include "abi.h"

const char *splitlearn_abi(void) { return SPLITLEARN_ABI; }
