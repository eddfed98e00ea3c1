/* The log-likelihood of a compiled circuit and its gradients, float32.

   The plan is the list of folded layers as 64-bit integers; see __init__.py, which writes it:
     product layer: 0, start, size, left rows [size], right rows [size]
     sum layer:     1, start, blocks, width, fan_in, first_edge, input rows [blocks * fan_in]
   The batch is worked off in tiles of V lanes of 16 entries. V, a constant wherever a function is inlined, is 4 where
   all entries share their weights and there are enough of them, else 1.

   Rows hold log values. A block subtracts the largest of its children before it exponentiates, as the tensor version
   does, and a sum that comes out too small to be trusted ends the call with status 1: the caller then takes the other
   way. Memory is the caller's, except for scratch of the size of one tile. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "doors.h"

#define LANE 16
typedef float lane __attribute__((vector_size(4 * LANE)));
typedef int32_t ints __attribute__((vector_size(4 * LANE)));

static const float SMALL = FLT_MIN / FLT_EPSILON;

INLINE lane all(float x) { return x - (lane){0}; }
INLINE lane choose(ints which, lane yes, lane no) { return (lane)((which & (ints)yes) | (~which & (ints)no)); }
INLINE lane larger(lane a, lane b) { return choose(a > b, a, b); }
/* The sum of a lane: halves, quarters, ... onto each other. */
INLINE float total_of(lane x) {
    x += __builtin_shuffle(x, (ints){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    x += __builtin_shuffle(x, (ints){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    x += __builtin_shuffle(x, (ints){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    x += __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    return x[0];
}

/* exp by range reduction to [-ln 2 / 2, ln 2 / 2] and a polynomial of degree 6 (Cephes), relative error below 2e-7,
   for x <= 0; below the range of normal numbers, and for -inf, exactly 0. */
INLINE lane fast_exp(lane x) {
    const ints gone = x < -87.0f;
    const lane y = choose(gone, all(-87.0f), x);
    const lane n = (y * 1.44269504088896341f + 12582912.0f) - 12582912.0f; /* rounds to an integer */
    const lane r = n * 2.12194440e-4f + (n * -0.693359375f + y);
    lane p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return choose(gone, (lane){0}, p * (lane)power);
}

/* log of a positive normal number (Cephes), relative error below 2e-7; log of 0 is -inf. */
INLINE lane fast_log(lane x) {
    const ints bits = (ints)x;
    const lane m = (lane)((bits & 0x007fffff) | 0x3f000000);
    const ints low = m < 0.707106781186547524f;
    const lane k = __builtin_convertvector(((bits >> 23) & 255) - 126 + low, lane); /* low is 0 or -1 */
    const lane r = choose(low, m + m, m) - 1.0f;
    const lane z = r * r;
    lane p = r * 7.0376836292e-2f + -1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r + -1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r + -1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r + -2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    lane y = p * (r * z) + k * -2.12194440e-4f;
    y = z * -0.5f + y;
    y = k * 0.693359375f + (r + y);
    return choose(x > 0.0f, y, all(-INFINITY));
}

/* Read the header of a layer and step to the next one. */
typedef struct {
    int64_t kind, start, size, blocks, width, fan_in, first_edge;
    const int64_t *left, *right, *inputs;
} Layer;

INLINE const int64_t *read_layer(const int64_t *plan, Layer *layer) {
    layer->kind = plan[0];
    layer->start = plan[1];
    if (layer->kind == 0) {
        layer->size = plan[2];
        layer->left = plan + 3;
        layer->right = layer->left + layer->size;
        return layer->right + layer->size;
    }
    layer->blocks = plan[2];
    layer->width = plan[3];
    layer->fan_in = plan[4];
    layer->first_edge = plan[5];
    layer->inputs = plan + 6;
    layer->size = layer->blocks * layer->width;
    return layer->inputs + layer->blocks * layer->fan_in;
}

/* Exchange rows and columns of a square of lanes: halves, quarters, ... change places across the diagonal. */
#define SWAP(s, ...)                                                         \
    for (int i = 0; i < LANE; i++)                                           \
        if (!(i & s)) {                                                      \
            const lane a = x[i], b = x[i | s];                               \
            x[i] = __builtin_shuffle(a, b, (ints){__VA_ARGS__});                       \
            x[i | s] = __builtin_shuffle(a, b, (ints){__VA_ARGS__} + s);               \
        }
INLINE void transpose(lane *x) {
    SWAP(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
    SWAP(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
    SWAP(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
    SWAP(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
}

/* Up to 16 numbers from or to any address, the rest of the lane filled up; whole lanes with one instruction. */
INLINE lane load_some(const float *from, int64_t count, float rest) {
    lane some = all(rest);
    if (count >= LANE)
        memcpy(&some, from, sizeof some);
    else
        for (int64_t b = 0; b < count; b++) some[b] = from[b];
    return some;
}

INLINE void store_some(float *to, lane some, int64_t count) {
    if (count >= LANE)
        memcpy(to, &some, sizeof some);
    else
        for (int64_t b = 0; b < count; b++) to[b] = some[b];
}

/* Batched weights: the logits of a tile's entries, [count, parameters], and as lanes side by side. They change places
   in squares, just before the lanes are needed and as soon as they are done with, while they are in the fastest cache. */
typedef struct {
    const float *from;
    float *to;
    int64_t count, parameters, place; /* the lanes before `place` are loaded; those from it on are stored */
    lane *lanes;
} Batched;

INLINE void load_until(Batched *tile, int64_t edge) {
    for (; tile->place < edge; tile->place += LANE) {
        const int64_t place = tile->place, left = tile->parameters - place;
        lane square[LANE];
        for (int64_t b = 0; b < LANE; b++)
            square[b] = b < tile->count ? load_some(tile->from + b * tile->parameters + place, left, 0.0f) : (lane){0};
        transpose(square);
        for (int64_t j = 0; j < LANE; j++) tile->lanes[place + j] = square[j];
    }
}

INLINE void store_from(Batched *tile, int64_t edge) {
    while (tile->place - LANE >= edge) {
        const int64_t place = tile->place -= LANE, left = tile->parameters - place;
        lane square[LANE];
        for (int64_t j = 0; j < LANE; j++) square[j] = tile->lanes[place + j];
        transpose(square);
        for (int64_t b = 0; b < tile->count; b++) store_some(tile->to + b * tile->parameters + place, square[b], left);
    }
}

/* parts = exp(children - shift), where the shift is the largest child, or the lowest number. */
INLINE void exponentiate(const Layer *layer, int64_t block, const lane *rows, lane *parts, lane *shift, const int V) {
    const int64_t *in = layer->inputs + block * layer->fan_in;
    for (int v = 0; v < V; v++) shift[v] = all(-FLT_MAX);
    for (int64_t i = 0; i < layer->fan_in; i++)
        for (int v = 0; v < V; v++) shift[v] = larger(rows[in[i] * V + v], shift[v]);
    for (int64_t i = 0; i < layer->fan_in; i++)
        for (int v = 0; v < V; v++) parts[i * V + v] = fast_exp(rows[in[i] * V + v] - shift[v]);
}

/* Replace the logits of one sum by exp(logit - largest), add them up, and weigh the parts with them. */
INLINE lane soften(lane *logits, const lane *parts, int64_t fan_in, lane *total) {
    lane top = all(-FLT_MAX), sum = {0}, weights = {0};
    for (int64_t i = 0; i < fan_in; i++) top = larger(logits[i], top);
    for (int64_t i = 0; i < fan_in; i++) {
        const lane weight = fast_exp(logits[i] - top);
        logits[i] = weight;
        weights += weight;
        sum += weight * parts[i];
    }
    *total = weights;
    return sum;
}

/* The values of all rows. Shared weights: [parameters], normalised. Batched weights (not NULL): lanes of logits, which
   are replaced by their exponentials, and the totals of these per row. */
INLINE int up(const int64_t *plan, int64_t layers, const float *shared, Batched *batched, lane *totals, lane *rows,
              lane *sums, lane *parts, const int V) {
    Layer layer;
    for (int64_t l = 0; l < layers; l++) {
        plan = read_layer(plan, &layer);
        if (layer.kind == 0) {
            for (int64_t i = 0; i < layer.size; i++)
                for (int v = 0; v < V; v++)
                    rows[(layer.start + i) * V + v] = rows[layer.left[i] * V + v] + rows[layer.right[i] * V + v];
            continue;
        }
        ints lost = {0};
        for (int64_t f = 0; f < layer.blocks; f++) {
            lane shift[4];
            exponentiate(&layer, f, rows, parts, shift, V);
            if (batched) load_until(batched, layer.first_edge + (f + 1) * layer.width * layer.fan_in);
            for (int64_t o = f * layer.width; o < (f + 1) * layer.width; o++) {
                const int64_t row = layer.start + o, edge = layer.first_edge + o * layer.fan_in;
                lane sum[4] = {{0}};
                if (batched)
                    sum[0] = soften(batched->lanes + edge, parts, layer.fan_in, totals + row);
                else
                    for (int64_t i = 0; i < layer.fan_in; i++)
                        for (int v = 0; v < V; v++) sum[v] += shared[edge + i] * parts[i * V + v];
                for (int v = 0; v < V; v++) {
                    /* above the lowest number one part is 1, so the sum should not vanish */
                    lost |= (sum[v] < SMALL) & (shift[v] > -FLT_MAX);
                    sums[row * V + v] = sum[v];
                    rows[row * V + v] = fast_log(batched ? sum[v] / totals[row] : sum[v]) + shift[v];
                }
            }
        }
        for (int b = 0; b < LANE; b++)
            if (lost[b]) return 1;
    }
    return 0;
}

/* The way back through one block with shared weights; that of the log weights is added to `gradient`. */
INLINE void block_down(int64_t edge, int64_t width, int64_t fan_in, const float *shared, const lane *above,
                       const lane *parts, lane *below, float *gradient, const int V) {
    for (int64_t i = 0; i < fan_in; i++) {
        lane part[4], sum[4] = {{0}};
        for (int v = 0; v < V; v++) part[v] = parts[i * V + v];
        for (int64_t o = 0; o < width; o++) {
            const float weight = shared[edge + o * fan_in + i];
            lane amount = above[o * V] * part[0];
            for (int v = 1; v < V; v++) amount += above[o * V + v] * part[v];
            for (int v = 0; v < V; v++) sum[v] += weight * above[o * V + v];
            gradient[edge + o * fan_in + i] += weight * total_of(amount);
        }
        for (int v = 0; v < V; v++) below[i * V + v] = sum[v];
    }
}

/* The way back through one block with batched weights, which are replaced by the gradient of their logits. */
INLINE void batched_block_down(lane *weights, int64_t width, int64_t fan_in, const lane *above, const lane *spent,
                               const lane *parts, lane *below) {
    for (int64_t i = 0; i < fan_in; i++) below[i] = (lane){0};
    for (int64_t o = 0; o < width; o++)
        for (int64_t i = 0; i < fan_in; i++) {
            const lane weight = weights[o * fan_in + i];
            below[i] += weight * above[o];
            weights[o * fan_in + i] = weight * (above[o] * parts[i] - spent[o]);
        }
}

/* The gradients of all rows, completed in place, and of the weights; see the two functions above. */
INLINE void down(const int64_t *const *starts, int64_t layers, const float *shared, Batched *batched,
                 const lane *totals, const lane *rows, const lane *sums, lane *adjoint, lane *scratch,
                 const int64_t *sizes, float *gradient, const int V) {
    lane *parts = scratch, *below = parts + sizes[5] * V, *above = below + sizes[5] * V, *spent = above + sizes[6] * V;
    Layer layer;
    for (int64_t l = layers - 1; l >= 0; l--) {
        read_layer(starts[l], &layer);
        if (layer.kind == 0) {
            for (int64_t i = 0; i < layer.size; i++)
                for (int v = 0; v < V; v++) adjoint[layer.left[i] * V + v] += adjoint[(layer.start + i) * V + v];
            for (int64_t i = 0; i < layer.size; i++)
                for (int v = 0; v < V; v++) adjoint[layer.right[i] * V + v] += adjoint[(layer.start + i) * V + v];
            continue;
        }
        for (int64_t f = layer.blocks - 1; f >= 0; f--) { /* the last edges first, for `store_from` */
            const int64_t row = layer.start + f * layer.width, edge = layer.first_edge + f * layer.width * layer.fan_in;
            lane shift[4];
            exponentiate(&layer, f, rows, parts, shift, V);
            for (int64_t o = 0; o < layer.width * V; o++) {
                /* a sum of zero has gradient zero, the limit of forbidding all its parts */
                const lane sum = sums[row * V + o];
                above[o] = choose(sum > 0.0f, adjoint[row * V + o] / sum, (lane){0});
                if (batched) spent[o] = adjoint[row + o] / totals[row + o];
            }
            if (batched) {
                batched_block_down(batched->lanes + edge, layer.width, layer.fan_in, above, spent, parts, below);
                store_from(batched, edge);
            } else
                block_down(edge, layer.width, layer.fan_in, shared, above, parts, below, gradient, V);
            const int64_t *in = layer.inputs + f * layer.fan_in;
            for (int64_t i = 0; i < layer.fan_in; i++)
                for (int v = 0; v < V; v++) adjoint[in[i] * V + v] += below[i * V + v] * parts[i * V + v];
        }
    }
}

/* weights = softmax of the logits within each sum; the exponentials of all sums of a layer in one go. */
INLINE void normalize(const int64_t *plan, int64_t layers, const float *logits, float *weights) {
    Layer layer;
    for (int64_t l = 0; l < layers; l++) {
        plan = read_layer(plan, &layer);
        if (layer.kind == 0) continue;
        const int64_t fan_in = layer.fan_in, edges = layer.size * fan_in;
        const float *from = logits + layer.first_edge;
        float *to = weights + layer.first_edge;
        for (int64_t i = 0; i < layer.size; i++) {
            float top = from[i * fan_in];
            for (int64_t j = 1; j < fan_in; j++) top = from[i * fan_in + j] > top ? from[i * fan_in + j] : top;
            for (int64_t j = 0; j < fan_in; j++) to[i * fan_in + j] = from[i * fan_in + j] - top;
        }
        for (int64_t j = 0; j < edges; j += LANE)
            store_some(to + j, fast_exp(load_some(to + j, edges - j, 0.0f)), edges - j);
        for (int64_t i = 0; i < layer.size; i++) {
            float total = 0.0f;
            for (int64_t j = 0; j < fan_in; j++) total += to[i * fan_in + j];
            for (int64_t j = 0; j < fan_in; j++) to[i * fan_in + j] /= total;
        }
    }
}

/* Turn the gradient of the log weights into that of the logits, in place. */
INLINE void normalize_gradient(const int64_t *plan, int64_t layers, const float *weights, float *gradient) {
    Layer layer;
    for (int64_t l = 0; l < layers; l++) {
        plan = read_layer(plan, &layer);
        if (layer.kind == 0) continue;
        const int64_t fan_in = layer.fan_in;
        for (int64_t i = 0; i < layer.size; i++) {
            const float *w = weights + layer.first_edge + i * fan_in;
            float *g = gradient + layer.first_edge + i * fan_in;
            float total = 0.0f;
            for (int64_t j = 0; j < fan_in; j++) total += g[j];
            for (int64_t j = 0; j < fan_in; j++) g[j] -= w[j] * total;
        }
    }
}

/* Numbers per entry, [size, batch], to the first rows of a tile and back. */
INLINE void load_rows(const float *from, int64_t size, int64_t batch, int64_t count, lane *rows, const int V) {
    for (int64_t r = 0; r < size; r++)
        for (int v = 0; v < V; v++) rows[r * V + v] = load_some(from + r * batch + v * LANE, count - v * LANE, 0.0f);
}

INLINE void store_rows(const lane *rows, int64_t size, int64_t batch, int64_t count, float *to, const int V) {
    for (int64_t r = 0; r < size; r++)
        for (int v = 0; v < V; v++) store_some(to + r * batch + v * LANE, rows[r * V + v], count - v * LANE);
}

typedef struct {
    const int64_t *plan, *sizes; /* sizes: layers, rows, values, parameters, root, largest fan-in, largest width */
    int64_t batch;
    const float *logits, *values; /* [parameters] or [batch, parameters]; [values, batch] */
    float *result; /* [batch] */
    const float *gradient; /* [batch]; NULL: only the result is wanted */
    float *to_logits, *to_values; /* shapes of logits and values; to_values may be NULL */
} Task;

/* One tile from its first entry on: load, go up, and where wanted come down and store. */
INLINE int run_tile(const Task *task, const int64_t *const *starts, int64_t first, const float *shared, lane *lanes,
                    lane *scratch, const int V) {
    const int64_t *sizes = task->sizes, batch = task->batch, T = LANE * V;
    const int64_t count = batch - first < T ? batch - first : T, parameters = sizes[3];
    lane *rows = scratch, *sums = rows + sizes[1] * V, *adjoint = sums + sizes[1] * V;
    lane *totals = adjoint + sizes[1] * V, *rest = totals + (lanes ? sizes[1] : 0), *root = rows + sizes[4] * V;
    load_rows(task->values + first, sizes[2], batch, count, rows, V);
    const int64_t offset = first * parameters;
    Batched tile = {task->logits + offset, task->to_logits + offset, count, parameters, 0, lanes};
    Batched *batched = lanes ? &tile : NULL;
    if (up(task->plan, sizes[0], shared, batched, totals, rows, sums, rest, V)) return 1;
    store_rows(root, 1, batch, count, task->result + first, V);
    if (!task->gradient) return 0;
    memset(adjoint, 0, (size_t)(sizes[1] * V) * sizeof *adjoint);
    lane *top = adjoint + sizes[4] * V;
    load_rows(task->gradient + first, 1, batch, count, top, V);
    for (int v = 0; v < V; v++) top[v] = choose(root[v] > -INFINITY, top[v], (lane){0});
    down(starts, sizes[0], shared, batched, totals, rows, sums, adjoint, rest, sizes, task->to_logits, V);
    if (batched) store_from(batched, 0);
    if (task->to_values) store_rows(adjoint, sizes[2], batch, count, task->to_values + first, V);
    return 0;
}

INLINE const int64_t **layer_starts(const int64_t *plan, int64_t layers) {
    const int64_t **starts = malloc((size_t)(layers + 1) * sizeof *starts);
    Layer layer;
    for (int64_t l = 0; starts && l < layers; l++) {
        starts[l] = plan;
        plan = read_layer(plan, &layer);
    }
    return starts;
}

/* Ask for large pages for memory that is about to be written for the first time: with small ones the system spends more
   time on handing them out than the kernels on filling them. */
INLINE void want_large_pages(float *memory, int64_t count) {
#ifdef MADV_HUGEPAGE
    const uintptr_t large = 1 << 21, start = ((uintptr_t)memory + large - 1) & ~(large - 1);
    const uintptr_t stop = (uintptr_t)(memory + count) & ~(large - 1);
    if (memory && stop > start) madvise((void *)start, stop - start, MADV_HUGEPAGE);
#endif
}

INLINE int run(const Task *task, const int is_batched, const int V) {
    const int64_t *sizes = task->sizes;
    const int64_t **starts = layer_starts(task->plan, sizes[0]);
    const int64_t tile = is_batched ? sizes[1] + sizes[3] + LANE : 0;
    const int64_t lanes = (3 * sizes[1] + 2 * sizes[5] + 2 * sizes[6]) * V + tile;
    char *memory = malloc((size_t)lanes * sizeof(lane) + 64); /* rounded up to whole cache lines below */
    float *shared = is_batched ? NULL : malloc((size_t)sizes[3] * sizeof *shared);
    int status = starts && memory && (is_batched || shared) ? 0 : 2;
    if (is_batched) want_large_pages(task->to_logits, task->batch * sizes[3]);
    lane *batched = is_batched ? (lane *)(((uintptr_t)memory + 63) & ~(uintptr_t)63) : NULL;
    lane *scratch = is_batched ? batched + sizes[3] + LANE : (lane *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    if (!status && !is_batched) {
        normalize(task->plan, sizes[0], task->logits, shared);
        if (task->gradient) memset(task->to_logits, 0, (size_t)sizes[3] * sizeof *shared);
    }
    for (int64_t first = 0; first < task->batch && !status; first += LANE * V)
        status = run_tile(task, starts, first, shared, batched, scratch, V);
    if (!status && !is_batched && task->gradient) normalize_gradient(task->plan, sizes[0], shared, task->to_logits);
    free(shared);
    free(memory);
    free(starts);
    return status;
}

/* The two doors. Status: 0 fine, 1 digits would be lost, 2 out of memory. */

EXPORT int spn_shared(const Task *task) { return task->batch <= LANE ? run(task, 0, 1) : run(task, 0, 4); }

EXPORT int spn_batched(const Task *task) { return run(task, 1, 1); }
