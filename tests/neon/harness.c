/* Calls the kernels that it is linked with as a file says, and writes down what is in memory after each call:

       harness CALLS RESULTS    exit code 2: the processor lacks the instructions; then nothing was called
       harness --anyway CALLS RESULTS

   calls.py and memory_image.py write the file and read the results. All numbers are int64_t. The file is a number of
   calls; each is a name of 32 bytes, a number of blocks, a number of pointers, blocks, and pointers. A block is its
   size and its bytes; the first one is the structure that the kernel takes. A pointer is four numbers: the block that
   holds it, where in it, the block that it points to, and where in that one. */

#define _GNU_SOURCE /* mmap's anonymous memory */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi.h"

enum { NAME_BYTES = 32, FAILED = 1, NOT_SUPPORTED = 2 };

typedef struct {
    unsigned char *bytes;
    size_t size;
} Block;

static void read_all(FILE *from, void *to, size_t size) {
    if (size && fread(to, 1, size, from) != size) {
        fprintf(stderr, "the file ends too early\n");
        exit(FAILED);
    }
}

static size_t read_number(FILE *from) {
    int64_t number;
    read_all(from, &number, sizeof number);
    return (size_t)number;
}

/* Memory that ends where the next page cannot be touched, so that reading past its end ends the program. */
static unsigned char *guarded(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size + page - 1) / page * page;
    unsigned char *begin = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED || mprotect(begin + whole, page, PROT_NONE)) {
        perror("no memory");
        exit(FAILED);
    }
    return begin + whole - size;
}

static int32_t call(const char *name, const void *structure) {
#define ONE(kernel, Call)                                                                                              \
    if (!strcmp(name, #kernel)) return splitlearn_##kernel((const Call *)structure);
    ONE(linear, LinearCall)
    ONE(rms_norm, RmsNormCall)
    ONE(gate, GateCall)
    ONE(rope_and_store, RopeAndStoreCall)
    ONE(store, StoreCall)
    ONE(attend, AttendCall)
    ONE(layers, LayersCall)
    ONE(experts, ExpertsCall)
    fprintf(stderr, "no kernel %s\n", name);
    exit(FAILED);
}

static void run_one(FILE *calls, FILE *results) {
    char name[NAME_BYTES];
    read_all(calls, name, sizeof name);
    const size_t n_blocks = read_number(calls), n_pointers = read_number(calls);
    Block *blocks = calloc(n_blocks, sizeof *blocks);
    for (size_t i = 0; i < n_blocks; i++) {
        blocks[i].size = read_number(calls);
        blocks[i].bytes = guarded(blocks[i].size);
        read_all(calls, blocks[i].bytes, blocks[i].size);
    }
    for (size_t i = 0; i < n_pointers; i++) {
        const size_t holder = read_number(calls), at = read_number(calls);
        const size_t target = read_number(calls), offset = read_number(calls);
        const unsigned char *address = blocks[target].bytes + offset;
        memcpy(blocks[holder].bytes + at, &address, sizeof address);
    }
    if (call(name, blocks[0].bytes) != OK) {
        fprintf(stderr, "%s: no memory\n", name);
        exit(FAILED);
    }
    for (size_t i = 0; i < n_blocks; i++) fwrite(blocks[i].bytes, 1, blocks[i].size, results);
    free(blocks);
}

int main(int argc, char **argv) {
    const int anyway = argc > 1 && !strcmp(argv[1], "--anyway");
    if (!anyway && !splitlearn_is_supported()) {
        fprintf(stderr, "the processor lacks the instructions\n");
        return NOT_SUPPORTED;
    }
    FILE *calls = fopen(argv[1 + anyway], "rb"), *results = fopen(argv[2 + anyway], "wb");
    if (argc != 3 + anyway || !calls || !results) {
        fprintf(stderr, "usage: %s [--anyway] CALLS RESULTS\n", argv[0]);
        return FAILED;
    }
    for (size_t left = read_number(calls); left; left--) run_one(calls, results);
    return fclose(results) ? FAILED : 0;
}
