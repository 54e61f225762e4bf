/* Decoder layers in one call: attention, then a gated MLP, each between norms and added to its residual. They run the
   kernels that Python can also call one by one, with nothing between them. */

#include "kernels.h"

#ifdef SIMD_FITS

/* What is between two linear layers, of all rows; one allocation, which begins at `normed`. */
typedef struct {
    bf16 *normed, *qkv, *attended, *added, *gate_up, *gated;
} Activations;

static int32_t allocate(Activations *activations, const Layer *layer, int64_t n_rows) {
    enum { PARTS = 6, LINE = CACHE_LINE / sizeof(bf16) };
    const int64_t widths[PARTS] = {layer->qkv_proj.n_inputs, layer->qkv_proj.n_outputs,     layer->o_proj.n_inputs,
                                   layer->o_proj.n_outputs,  layer->gate_up_proj.n_outputs, layer->down_proj.n_inputs};
    int64_t begins[PARTS], total = 0;
    for (int i = 0; i < PARTS; i++) {
        begins[i] = total;
        total += (n_rows * widths[i] + LINE - 1) / LINE * LINE;
    }
    bf16 *all = take_scratch((size_t)total * sizeof(bf16));
    if (!all) return NO_MEMORY;
    *activations = (Activations){all + begins[0], all + begins[1], all + begins[2],
                                 all + begins[3], all + begins[4], all + begins[5]};
    return OK;
}

static int32_t linear(const Linear *linear, const bf16 *rows, bf16 *outputs, const LayersCall *step) {
    const LinearCall call = {rows, outputs, step->n_rows, linear->n_inputs, *linear, step->n_threads};
    return splitlearn_linear(&call);
}

static int32_t attend(const Layer *layer, const LayersCall *step, const Activations *activations) {
    const RopeAndStoreCall stored = {
        .sessions = step->sessions,
        .n_sessions = step->n_sessions,
        .layer = layer->index,
        .rows = activations->qkv,
        .n_rows = step->n_rows,
        .n_heads = layer->n_heads,
        .n_kv_heads = layer->n_kv_heads,
        .head_dim = layer->head_dim,
        .cosines = step->cosines,
        .sines = step->sines,
        .rotary_dim = layer->uses_rope ? step->rotary_dim : 0,
        .query_norm = layer->query_norm,
        .key_norm = layer->key_norm,
        .n_threads = step->n_threads,
    };
    const AttendCall attended = {
        .sessions = step->sessions,
        .n_sessions = step->n_sessions,
        .layer = layer->index,
        .starts = step->starts,
        .queries = activations->qkv,
        .head_stride = layer->head_dim,
        .row_stride = layer->qkv_proj.n_outputs,
        .outputs = activations->attended,
        .n_heads = layer->n_heads,
        .n_kv_heads = layer->n_kv_heads,
        .head_dim = layer->head_dim,
        .params = layer->attention,
        .n_threads = step->n_threads,
    };
    const int32_t status = splitlearn_rope_and_store(&stored);
    return status == OK ? splitlearn_attend(&attended) : status;
}

/* sums = rows + norm(added), where the sums may be the rows; returns norm(sums), or the sums where there is no such
   norm. */
static const bf16 *add_residual(const bf16 *rows, const RowNorm *added_norm, bf16 *sums, const RowNorm *sums_norm,
                                const LayersCall *step, int64_t width, const Activations *activations) {
    const ResidualNormCall call = {rows,      activations->added, sums,  activations->normed, added_norm,
                                   sums_norm, step->n_rows,       width, step->n_threads};
    residual_norm(&call);
    return sums_norm->weight ? activations->normed : sums;
}

/* The outputs may be the rows themselves. */
static int32_t run(const Layer *layer, const LayersCall *step, const Activations *activations, const bf16 *rows,
                   bf16 *outputs) {
    const int64_t width = layer->qkv_proj.n_inputs, n_inner = layer->down_proj.n_inputs;
    const RowNorm no_norm = {0};
    const bf16 *inputs = rows;
    int32_t status = OK;
    if (layer->pre_attention_norm.weight) {
        const RmsNormCall norm = {rows,  activations->normed,       step->n_rows,
                                  width, layer->pre_attention_norm, step->n_threads};
        if ((status = splitlearn_rms_norm(&norm)) != OK) return status;
        inputs = activations->normed;
    }
    if ((status = linear(&layer->qkv_proj, inputs, activations->qkv, step)) != OK) return status;
    if ((status = attend(layer, step, activations)) != OK) return status;
    if ((status = linear(&layer->o_proj, activations->attended, activations->added, step)) != OK) return status;
    inputs = add_residual(rows, &layer->post_attention_norm, outputs, &layer->pre_mlp_norm, step, width, activations);
    if ((status = linear(&layer->gate_up_proj, inputs, activations->gate_up, step)) != OK) return status;
    const GateCall gate = {activations->gate_up,
                           activations->gate_up + n_inner,
                           activations->gated,
                           step->n_rows,
                           n_inner,
                           2 * n_inner,
                           layer->gate,
                           step->n_threads};
    if ((status = splitlearn_gate(&gate)) != OK) return status;
    if ((status = linear(&layer->down_proj, activations->gated, activations->added, step)) != OK) return status;
    add_residual(outputs, &layer->post_mlp_norm, outputs, &no_norm, step, width, activations);
    return OK;
}

int32_t splitlearn_layers(const LayersCall *call) {
    int32_t status = OK;
    for (int64_t i = 0; i < call->n_layers && status == OK; i++) {
        Activations activations;
        if ((status = allocate(&activations, call->layers[i], call->n_rows)) != OK) return status;
        status = run(call->layers[i], call, &activations, i ? call->outputs : call->rows, call->outputs);
        give_back_scratch(activations.normed);
    }
    return status;
}

#endif
