/* Decoder layers in one call: attention over what the sessions keep, then a gated unit, each between norms and beside
   its residual. The same kernels as one by one, with nothing between them. */

#include "kernels.h"

#if defined(__x86_64__)

/* Linear, Layer and RowNorm are mirrored by structs.py. */
typedef struct {
    const void *weight;
    const bf16 *scales;  /* of int8 levels; NULL: the weight is bf16 */
    const int32_t *sums; /* of each output's levels */
    const bf16 *bias;    /* or NULL */
    long n_inputs, n_outputs;
} Linear;

typedef struct {
    RowNorm before_attention, after_attention, before_gates, after_gates;
    Linear projects, projects_out, gates, closes;
    RowNorm query_norm, key_norm; /* of heads; both or none */
    long index, n_heads, n_kv_heads, width;
    How how;
    int is_turned, is_gelu;
} Layer;

typedef struct {
    const Session *sessions;
    long n_sessions;
    const long *starts;
    const bf16 *cosines, *sines;
    long n_turned, n_rows;
    unsigned n_threads;
} Step;

/* What lies between two linear layers, of all rows. */
typedef struct {
    bf16 *normed, *projected, *attended, *added, *both, *gated;
} Between;

static int divide(Between *between, const Layer *layer, long n_rows) {
    enum { PARTS = 6, LINE = 64 / sizeof(bf16) };
    const long widths[PARTS] = {layer->projects.n_inputs,     layer->projects.n_outputs, layer->projects_out.n_inputs,
                                layer->projects_out.n_outputs, layer->gates.n_outputs,    layer->closes.n_inputs};
    long begins[PARTS], total = 0;
    for (int i = 0; i < PARTS; i++) {
        begins[i] = total;
        total += (n_rows * widths[i] + LINE - 1) / LINE * LINE;
    }
    bf16 *all = aligned_alloc(LINE * sizeof(bf16), total * sizeof(bf16));
    if (!all) return 0;
    *between = (Between){all + begins[0], all + begins[1], all + begins[2], all + begins[3], all + begins[4], all + begins[5]};
    return 1;
}

static void apply(const Linear *linear, const bf16 *rows, bf16 *outputs, const Step *step) {
    const long n_inputs = linear->n_inputs, n_outputs = linear->n_outputs;
    if (linear->scales)
        splitlearn_linear_int8(rows, linear->weight, linear->scales, linear->sums, linear->bias, outputs, step->n_rows,
                               n_inputs, n_inputs, n_outputs, step->n_threads);
    else
        splitlearn_linear(rows, linear->weight, linear->bias, outputs, step->n_rows, n_inputs, n_inputs, n_outputs,
                          step->n_threads);
}

static void attend(const Layer *layer, const Step *step, bf16 *projected, bf16 *attended) {
    const long n_heads = layer->n_heads, n_kv_heads = layer->n_kv_heads, width = layer->width;
    const long row_stride = layer->projects.n_outputs;
    splitlearn_place_heads(step->sessions, step->n_sessions, layer->index, projected, step->n_rows, n_heads, n_kv_heads,
                           width, step->cosines, step->sines, layer->is_turned ? step->n_turned : 0,
                           layer->query_norm.weight, layer->key_norm.weight, layer->query_norm.epsilon,
                           layer->query_norm.adds_one, step->n_threads);
    splitlearn_attend(step->sessions, step->n_sessions, layer->index, step->starts, projected, width, row_stride, attended,
                      n_heads, n_kv_heads, width, &layer->how, step->n_threads);
}

/* Whoever fills layers in asks whether both mean the same. */
long splitlearn_layer_size(void) { return sizeof(Layer); }

/* The outputs may be the rows themselves. 0 where there is no memory for what lies between. */
static int run(const Layer *layer, const Step *step, const bf16 *rows, bf16 *outputs) {
    const long width = layer->projects.n_inputs, n_rows = step->n_rows;
    const unsigned n_threads = step->n_threads;
    const RowNorm none = {0};
    Between between;
    if (!divide(&between, layer, n_rows)) return 0;
    const bf16 *taken_in = rows;
    if (layer->before_attention.weight) {
        const RowNorm *norm = &layer->before_attention;
        splitlearn_rms_norm(rows, norm->weight, between.normed, n_rows, width, norm->epsilon, norm->adds_one, n_threads);
        taken_in = between.normed;
    }
    apply(&layer->projects, taken_in, between.projected, step);
    attend(layer, step, between.projected, between.attended);
    apply(&layer->projects_out, between.attended, between.added, step);
    splitlearn_join(rows, between.added, outputs, between.normed, &layer->after_attention, &layer->before_gates, n_rows,
                    width, n_threads);
    taken_in = layer->before_gates.weight ? between.normed : outputs;
    apply(&layer->gates, taken_in, between.both, step);
    const long n_inner = layer->closes.n_inputs;
    splitlearn_gate(between.both, between.both + n_inner, between.gated, n_rows, n_inner, 2 * n_inner, layer->is_gelu,
                    n_threads);
    apply(&layer->closes, between.gated, between.added, step);
    splitlearn_join(outputs, between.added, outputs, between.normed, &layer->after_gates, &none, n_rows, width, n_threads);
    free(between.normed);
    return 1;
}

/* Rows of all sessions through layers, one after the other; 0 where there is no memory for what lies between.

   `starts`: of each row the first row of its session that it sees, or NULL: all of them see everything before them. */
int splitlearn_layers(const void *layers, long n_layers, const void *sessions, long n_sessions, const void *starts,
                      const void *cosines, const void *sines, long n_turned, const void *rows, void *outputs, long n_rows,
                      unsigned n_threads) {
    const Layer *const *each = layers;
    const Step step = {sessions, n_sessions, starts, cosines, sines, n_turned, n_rows, n_threads};
    int done = 1;
    for (long i = 0; i < n_layers && done; i++) done = run(each[i], &step, i ? outputs : rows, outputs);
    return done;
}

#endif
