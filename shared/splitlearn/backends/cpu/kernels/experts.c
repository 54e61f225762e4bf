/* Mixtures of experts (Shazeer et al. 2017, arXiv 1701.06538): each row goes through the gated units that it has
   chosen, and only their weights are read.

   Pairs of a row and an expert are sorted by expert, so that a weight is read once for all rows that have chosen it. A
   row's outputs are added up in the order of its choices, so that its result does not depend on the other rows. */

#include "kernels.h"

#ifdef SIMD_FITS

/* A pair has a place behind those of earlier experts, and of earlier rows with the same expert. */
typedef struct {
    const ExpertsCall *call;
    int64_t *places; /* of each choice; NONE: it is no expert's */
    int64_t *rows;   /* of each place */
    Group *groups;   /* of places: one for each expert that was chosen */
    int64_t n_places, n_groups;
    bf16 *inputs, *gate_up, *gated, *outputs; /* of each place */
    int64_t next_place, next_row;             /* the first that no thread has taken */
} Mixture;

enum { NONE = -1 };

static int64_t width_of(const ExpertsCall *call) { return call->gate_up_proj.n_inputs; }
static int64_t inner_width_of(const ExpertsCall *call) { return call->down_proj.n_inputs; }
static int is_expert(const ExpertsCall *call, int64_t choice) { return choice >= 0 && choice < call->n_experts; }

/* Fills `places`, `rows` and `groups`. `ends`: memory for a number of each expert. */
static void sort_choices(Mixture *mixture, int64_t *ends) {
    const ExpertsCall *call = mixture->call;
    const int64_t n_all = call->n_rows * call->n_choices;
    memset(ends, 0, (size_t)call->n_experts * sizeof *ends);
    for (int64_t i = 0; i < n_all; i++)
        if (is_expert(call, call->choices[i])) ends[call->choices[i]]++;
    int64_t place = 0;
    for (int64_t expert = 0; expert < call->n_experts; expert++) {
        const int64_t n = ends[expert];
        if (n) mixture->groups[mixture->n_groups++] = (Group){place, place + n, expert};
        ends[expert] = place;
        place += n;
    }
    mixture->n_places = place;
    for (int64_t i = 0; i < n_all; i++) {
        mixture->places[i] = NONE;
        if (!is_expert(call, call->choices[i])) continue;
        mixture->places[i] = ends[call->choices[i]]++;
        mixture->rows[mixture->places[i]] = i / call->n_choices;
    }
}

static void gather_worker(void *data) {
    Mixture *mixture = data;
    const int64_t width = width_of(mixture->call);
    for (int64_t place; (place = fetch_add(&mixture->next_place, 1)) < mixture->n_places;)
        memcpy(mixture->inputs + place * width, mixture->call->rows + mixture->rows[place] * width,
               (size_t)width * sizeof(bf16));
}

TARGET static void sum_worker(void *data) {
    Mixture *mixture = data;
    const ExpertsCall *call = mixture->call;
    const int64_t width = width_of(call), n_choices = call->n_choices;
    for (int64_t row; (row = fetch_add(&mixture->next_row, 1)) < call->n_rows;)
        for (int64_t column = 0; column < width; column += 16) {
            f32x16 sum = f32_zero();
            for (int64_t i = row * n_choices; i < (row + 1) * n_choices; i++) {
                if (mixture->places[i] == NONE) continue;
                const bf16 *output = mixture->outputs + mixture->places[i] * width + column;
                sum = f32_fma(load_bf16(output, width - column), f32_set(call->shares[i]), sum);
            }
            store_bf16(call->outputs + row * width + column, width - column, sum);
        }
}

static int32_t multiply(const Mixture *mixture, const Linear *first, const bf16 *rows, bf16 *outputs) {
    const LinearCall call = {rows, outputs, mixture->n_places, first->n_inputs, *first, mixture->call->n_threads};
    return linear_groups(&call, mixture->groups, mixture->n_groups);
}

static int32_t run(Mixture *mixture) {
    const ExpertsCall *call = mixture->call;
    const int64_t width = width_of(call), n_inner = inner_width_of(call);
    const unsigned team = team_for_numbers(mixture->n_places * width, call->n_threads);
    int32_t status;
    in_parallel(gather_worker, mixture, team);
    if ((status = multiply(mixture, &call->gate_up_proj, mixture->inputs, mixture->gate_up)) != OK) return status;
    const GateCall gate = {mixture->gate_up, mixture->gate_up + n_inner,
                           mixture->gated,   mixture->n_places,
                           n_inner,          2 * n_inner,
                           call->gate,       call->n_threads};
    if ((status = splitlearn_gate(&gate)) != OK) return status;
    if ((status = multiply(mixture, &call->down_proj, mixture->gated, mixture->outputs)) != OK) return status;
    in_parallel(sum_worker, mixture, team);
    return OK;
}

/* A piece of an allocation that begins at a cache line; `*used` bytes are others' already. */
static void *piece(char *all, size_t *used, size_t n_bytes) {
    char *found = all ? all + *used : NULL;
    *used += (n_bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return found;
}

/* Gives the mixture its memory at `all`; returns how many bytes. NULL: only that. */
static size_t lay_out(Mixture *mixture, char *all, int64_t **ends) {
    const ExpertsCall *call = mixture->call;
    const size_t n = (size_t)(call->n_rows * call->n_choices), n_experts = (size_t)call->n_experts;
    const size_t row_bytes = (size_t)width_of(call) * sizeof(bf16);
    const size_t inner_bytes = (size_t)inner_width_of(call) * sizeof(bf16);
    size_t used = 0;
    mixture->places = piece(all, &used, n * sizeof(int64_t));
    mixture->rows = piece(all, &used, n * sizeof(int64_t));
    mixture->groups = piece(all, &used, n_experts * sizeof(Group));
    *ends = piece(all, &used, n_experts * sizeof(int64_t));
    mixture->inputs = piece(all, &used, n * row_bytes);
    mixture->gate_up = piece(all, &used, 2 * n * inner_bytes);
    mixture->gated = piece(all, &used, n * inner_bytes);
    mixture->outputs = piece(all, &used, n * row_bytes);
    return used;
}

int32_t splitlearn_experts(const ExpertsCall *call) {
    Mixture mixture = {.call = call};
    int64_t *ends;
    char *all = take_scratch(lay_out(&mixture, NULL, &ends));
    if (!all) return NO_MEMORY;
    lay_out(&mixture, all, &ends);
    sort_choices(&mixture, ends);
    const int32_t status = run(&mixture);
    give_back_scratch(all);
    return status;
}

#endif
