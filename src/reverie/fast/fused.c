/* As compiled code, float32: the recurrent loops of scan.py (filtering forward and backward, dreaming), dense layers and
   convolutions of few channels both ways, norms and steps of Adam. The arithmetic is that of scan.py, steps.py, dense.py and
   convs.py, which are easier to read; the names are theirs. fused.py calls this through ctypes: plain C, no torch, no memory of its own, nothing kept between calls, so
   any number of threads may be in it at once.

   Every exported function takes the instruction set to use: 0 plain, 1 AVX2 and FMA, 2 AVX-512; `reverie_best` tells which
   is the best one here. Arrays are dense: (B, T, n) lies as B * T rows of n numbers, row b * T + t. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define MIX(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define MIX(x, y, ...) __builtin_shuffle(x, y, (int __attribute__((vector_size(16)))){__VA_ARGS__})
#endif
#define PANEL 32 /* columns of a packed weight that lie together */
#define TILE 8   /* most rows of a tile */
#define BLOCK 128 /* rows that go through all layers before the next ones: what they leave stays in the cache */

typedef struct { const float *gamma, *beta; float eps; } Norm; /* LayerNorm; no norm where gamma is null */
typedef float four __attribute__((vector_size(16)));
typedef float loose __attribute__((vector_size(16), aligned(4), may_alias));

/* The RSSM's layers: sizes, and weights packed for the way forward. `head` and `answer` are the posterior's for filtering
   (W_h, W_s of scan.py), the prior's for dreaming. */
typedef struct {
    int64_t a, x, d, y, count, classes; /* action, input layer, h, head, categoricals, classes of each */
    const float *columns;               /* (count * classes, x): one row for each class of z */
    const float *action, *input_bias, *gates, *gates_bias, *head, *head_bias, *answer, *answer_bias;
    Norm input_norm, gates_norm, head_norm;
} Rssm;

/* One step of `rows` states. Row r of an output begins at r * step * n. Outputs up to `parts` are kept for the way back. */
typedef struct {
    int64_t rows, step;
    const float *action; int64_t action_step;
    const float *h; int64_t h_step;            /* null: zeros */
    const int32_t *index; int64_t index_step;  /* z as the indices of its ones; null: zeros, or from_z */
    const float *from_z;                       /* (rows, x): W_z z of a z that is not one-hot, or null */
    const uint8_t *first; int64_t first_step;  /* where set, h and z are erased; null: nowhere */
    const float *noise; int64_t noise_step;
    float *pre, *joined, *gates, *mean, *rstd, *parts; /* mean and rstd (rows, 3): of input, gates, head; may be null, as parts */
    float *look, *seen, *stats, *probs, *out;
    int32_t *drawn;
    float *normed;      /* (3 d,), for a while */
    int64_t look_given; /* is W_e e + b in `look` already? */
} Step;

/* Where a layer's rows add their share of the gradients of its bias and of its norm's weight and bias; null: not wanted. */
typedef struct { float *bias, *gamma, *beta; } Sums;

typedef struct { const float *answer, *head, *gates, *from_z; } BackWeights; /* packed for the way back */

typedef struct {
    int64_t rows, length;
    const float *of_deter, *of_stats, *of_probs; /* gradients of the outputs; null for none */
    const float *pre, *joined, *gates, *mean, *rstd, *parts, *look, *seen, *probs;
    const uint8_t *first;
    float *g_stats, *to_look, *to_gates, *to_pre;
    float *carry_h, *carry_probs, *direct, *wide; /* (rows, d), (rows, z), (rows, d), (rows, widest), for a while */
    Sums look_sums, gates_sums, pre_sums;
} Back;

/* A dense layer, its norm and activation. ins: without z, which is `count` ones of `classes`. */
typedef struct {
    int64_t ins, outs, elu, count, classes;
    const float *packed, *bias, *columns;
    Norm norm;
} Layer;

/* What the way forward leaves of a layer, (rows, outs), (rows,), (rows,), (rows, outs). `before` is y, and mean and rstd are
   null, where there is no norm. */
typedef struct { float *before, *mean, *rstd, *y; } LayerKept;

/* For the way back of a layer. weight (outs, classes + ins) and scattered (classes, outs): null where not wanted. */
typedef struct {
    const float *packed, *columns; /* W_x and W_z, packed for the way back */
    float *weight, *scattered;
    Sums sums;
} LayerBack;

/* A convolution of stride 2 between big images (count, height, width, channels) and small ones (count, rows, cols, maps),
   channels last. packed: for `down` from a patch to maps, for `up` from maps to a patch. */
typedef struct {
    int64_t count, height, width, channels, rows, cols, maps, kernel, elu;
    const float *packed, *bias;
} Conv;

/* AdamW's settings at this step; correction1 and correction2 are 1 - beta^t. */
typedef struct { double lr, beta1, beta2, eps, decay, correction1, correction2; } Adam;

/* A weight, its gradient, running means and count of steps. */
typedef struct {
    int64_t size;
    float *weight, *gradient, *mean, *square, *count;
} Learned;

typedef struct {
    void (*advance)(const Rssm *, const Step *);
    void (*back)(const Rssm *, const BackWeights *, const Back *);
    void (*layer)(const Layer *, int64_t, const float *, int64_t, const int32_t *, int64_t, float *, float *, float *, float *);
    void (*layer_back)(const Layer *, const LayerBack *, int64_t, float *, const float *, const float *, const float *, const float *,
                       const float *, int64_t, const int32_t *, int64_t, float *, float *);
    void (*outer)(int64_t, int64_t, int64_t, const float *, int64_t, const float *, int64_t, float *, int64_t);
    void (*scatter)(int64_t, int64_t, const int32_t *, const float *, int64_t, float *);
    double (*squares)(int64_t, const float *);
    void (*adam)(const Adam *, int64_t, float *, const float *, float *, float *);
    void (*down)(const Conv *, const float *, float *, float *);
    void (*up)(const Conv *, const float *, float *, float *);
    void (*weight)(const Conv *, const float *, const float *, float *, float *);
    void (*elu_back)(int64_t, int64_t, const float *, const float *, float *, float *);
} Kernels;

#define FN(name) plain_##name
#define BYTES 16
#if defined(__aarch64__)
#define ROWS 3
#else
#define ROWS 1
#endif
#include "fused_kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define FN(name) avx2_##name
#define BYTES 32
#define ROWS 3
#include "fused_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512")
#endif
#define FN(name) avx512_##name
#define BYTES 64
#define ROWS 8
#include "fused_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
static const Kernels *const LEVELS[] = {&plain_kernels, &avx2_kernels, &avx512_kernels};
#else
static const Kernels *const LEVELS[] = {&plain_kernels};
#endif

/* The best instruction set of this processor. */
int64_t reverie_best(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* The sizes of the structs, for a check that ctypes lays them out alike. */
void reverie_sizes(int64_t *sizes) {
    sizes[0] = sizeof(Rssm), sizes[1] = sizeof(Step), sizes[2] = sizeof(BackWeights), sizes[3] = sizeof(Back);
    sizes[4] = sizeof(Layer), sizes[5] = sizeof(LayerKept), sizes[6] = sizeof(LayerBack);
    sizes[7] = sizeof(Adam), sizes[8] = sizeof(Learned), sizes[9] = sizeof(Conv);
}

/* to[c, r] = from[r, c]: (rows, cols) to (cols, rows). Four by four: each cache line is read and written a few times only. */
static void turn(int64_t rows, int64_t cols, const float *from, int64_t from_step, float *to, int64_t to_step) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        const float *at = from + r * from_step;
        int64_t c = 0;
        for (; c + 4 <= cols; c += 4) {
            four x[4], y[4];
            for (int i = 0; i < 4; i++) x[i] = *(const loose *)(at + i * from_step + c);
            y[0] = MIX(x[0], x[1], 0, 4, 1, 5), y[1] = MIX(x[0], x[1], 2, 6, 3, 7);
            y[2] = MIX(x[2], x[3], 0, 4, 1, 5), y[3] = MIX(x[2], x[3], 2, 6, 3, 7);
            *(loose *)(to + c * to_step + r) = MIX(y[0], y[2], 0, 1, 4, 5);
            *(loose *)(to + (c + 1) * to_step + r) = MIX(y[0], y[2], 2, 3, 6, 7);
            *(loose *)(to + (c + 2) * to_step + r) = MIX(y[1], y[3], 0, 1, 4, 5);
            *(loose *)(to + (c + 3) * to_step + r) = MIX(y[1], y[3], 2, 3, 6, 7);
        }
        for (; c < cols; c++)
            for (int i = 0; i < 4; i++) to[c * to_step + r + i] = at[i * from_step + c];
    }
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) to[c * to_step + r] = from[r * from_step + c];
}

/* A matrix (depth, outs), its element (k, n) at source[k * k_step + n * n_step], as panels of PANEL columns, the last one
   filled up with zeros: to (ceil(outs / PANEL), depth, PANEL). */
void reverie_pack(int64_t depth, int64_t outs, const float *source, int64_t k_step, int64_t n_step, float *to) {
    for (int64_t first = 0; first < outs; first += PANEL, to += depth * PANEL) {
        const int64_t width = outs - first < PANEL ? outs - first : PANEL;
        if (width < PANEL) memset(to, 0, (size_t)(depth * PANEL) * sizeof(float));
        if (n_step == 1) {
            for (int64_t k = 0; k < depth; k++)
                memcpy(to + k * PANEL, source + k * k_step + first, (size_t)width * sizeof(float));
        } else if (k_step == 1) {
            turn(width, depth, source + first * n_step, n_step, to, PANEL);
        } else {
            for (int64_t k = 0; k < depth; k++)
                for (int64_t n = 0; n < width; n++) to[k * PANEL + n] = source[k * k_step + (first + n) * n_step];
        }
    }
}

/* One step, of a dream or of acting. */
void reverie_step(int64_t level, const Rssm *m, const Step *step) { LEVELS[level]->advance(m, step); }

/* Filtering: `length` steps, from `step` at time 0; its `step->step` is `length`, and every array has all times. */
void reverie_scan(int64_t level, const Rssm *m, const Step *step, int64_t length) {
    const int64_t Z = m->count * m->classes;
    Step now = *step;
    for (int64_t t = 0; t < length; t++) {
        LEVELS[level]->advance(m, &now);
        now.h = now.out, now.h_step = length * m->d;
        now.index = now.drawn, now.index_step = length * m->count;
        now.from_z = 0;
        now.action += m->a, now.first += 1, now.noise += m->count;
        now.pre += m->x, now.joined += m->x + m->d, now.gates += 3 * m->d, now.parts += 4 * m->d;
        now.mean += 3, now.rstd += 3;
        now.look += m->y, now.seen += m->y, now.stats += Z, now.probs += Z, now.out += m->d, now.drawn += m->count;
    }
}

/* The way back of `reverie_scan`. */
void reverie_back(int64_t level, const Rssm *m, const BackWeights *weights, const Back *back) {
    LEVELS[level]->back(m, weights, back);
}

/* Gradient of the columns of z: for each class, the sum of g (rows, width) over the rows whose index (rows, count) names
   it. out (classes, width). */
void reverie_scatter(int64_t level, int64_t rows, int64_t count, const int32_t *index, const float *g, int64_t width,
                     int64_t classes, float *out) {
    memset(out, 0, (size_t)(classes * width) * sizeof(float));
    LEVELS[level]->scatter(rows, count, index, g, width, out);
}

/* `count` layers one after the other; the first one also sees z, where index (rows, layers->count) is given. */
void reverie_layers(int64_t level, int64_t count, const Layer *layers, int64_t rows, const float *x, int64_t x_step,
                    const int32_t *index, int64_t index_step, const LayerKept *kept) {
    for (int64_t r = 0; r < rows; r += BLOCK) {
        const int64_t some = rows - r < BLOCK ? rows - r : BLOCK;
        const float *in = x + r * x_step;
        int64_t in_step = x_step;
        for (int64_t l = 0; l < count; l++) {
            const LayerKept *k = kept + l;
            const int64_t at = r * layers[l].outs;
            LEVELS[level]->layer(layers + l, some, in, in_step, l || !index ? 0 : index + r * index_step, index_step,
                                 k->before + at, k->mean ? k->mean + r : 0, k->rstd ? k->rstd + r : 0, k->y + at);
            in = k->y + at, in_step = layers[l].outs;
        }
    }
}

/* The way back of `reverie_layers`: g (rows, outs) of the last layer -> to_x (rows, ins) and to_probs (rows, classes) of the
   first, null where not wanted, and the gradients in `back`, which are zeros before. room: 2 * BLOCK * the widest side. */
void reverie_layers_back(int64_t level, int64_t count, const Layer *layers, int64_t rows, const float *x, int64_t x_step,
                         const int32_t *index, int64_t index_step, const LayerKept *kept, const LayerBack *back, const float *g,
                         float *to_x, float *to_probs, float *room, int64_t widest) {
    for (int64_t r = 0; r < rows; r += BLOCK) {
        const int64_t some = rows - r < BLOCK ? rows - r : BLOCK, last = layers[count - 1].outs;
        float *now = room, *next = room + BLOCK * widest;
        memcpy(now, g + r * last, (size_t)(some * last) * sizeof(float));
        for (int64_t l = count - 1; l >= 0; l--) {
            const LayerKept *k = kept + l;
            const int64_t at = r * layers[l].outs;
            const float *in = l ? kept[l - 1].y + r * layers[l].ins : x + r * x_step;
            LEVELS[level]->layer_back(layers + l, back + l, some, now, k->before + at, k->mean ? k->mean + r : 0,
                                      k->rstd ? k->rstd + r : 0, k->y + at, in, l ? layers[l].ins : x_step,
                                      l || !index ? 0 : index + r * index_step, index_step,
                                      l ? next : to_x ? to_x + r * layers->ins : 0,
                                      l || !to_probs ? 0 : to_probs + r * layers->classes);
            float *swap = now;
            now = next, next = swap;
        }
    }
    if (back->weight && back->scattered)
        turn(layers->classes, layers->outs, back->scattered, layers->outs, back->weight, layers->classes + layers->ins);
}

/* Gradient of a weight, out (outs, ins), zeros before: g' x of g (rows, outs) and x (rows, ins). */
void reverie_outer(int64_t level, int64_t rows, int64_t outs, int64_t ins, const float *g, int64_t g_step, const float *x,
                   int64_t x_step, float *out, int64_t out_step) {
    LEVELS[level]->outer(rows, outs, ins, g, g_step, x, x_step, out, out_step);
}

/* The norms of all gradients and of all running means together: norms[0] and norms[1]. */
void reverie_norms(int64_t level, int64_t count, const Learned *learned, float *norms) {
    double gradients = 0, means = 0;
    for (int64_t i = 0; i < count; i++) {
        gradients += LEVELS[level]->squares(learned[i].size, learned[i].gradient);
        means += LEVELS[level]->squares(learned[i].size, learned[i].mean);
        means += LEVELS[level]->squares(learned[i].size, learned[i].square);
    }
    norms[0] = (float)sqrt(gradients), norms[1] = (float)sqrt(means);
}

/* One step of all weights. */
void reverie_adam(int64_t level, int64_t count, const Learned *learned, const Adam *adam) {
    for (int64_t i = 0; i < count; i++) {
        const Learned *x = learned + i;
        *x->count += 1;
        LEVELS[level]->adam(adam, x->size, x->weight, x->gradient, x->mean, x->square);
    }
}

/* Convolutions; room: BLOCK patches. */
void reverie_down(int64_t level, const Conv *conv, const float *big, float *small, float *room) {
    LEVELS[level]->down(conv, big, small, room);
}

void reverie_up(int64_t level, const Conv *conv, const float *small, float *big, float *room) {
    LEVELS[level]->up(conv, small, big, room);
}

void reverie_weight(int64_t level, const Conv *conv, const float *big, const float *small, float *weight, float *room) {
    LEVELS[level]->weight(conv, big, small, weight, room);
}

void reverie_elu_back(int64_t level, int64_t rows, int64_t channels, const float *g, const float *y, float *to, float *bias) {
    LEVELS[level]->elu_back(rows, channels, g, y, to, bias);
}

/* z (rows, count * classes) as the indices of its ones, (rows, count). -> 1, or 0 if it is not exactly one-hot. */
int64_t reverie_ones(int64_t rows, int64_t count, int64_t classes, const float *z, int32_t *index) {
    for (int64_t r = 0; r < rows * count; r++, z += classes) {
        int64_t found = 0, others = 0;
        for (int64_t j = 0; j < classes; j++) found += z[j] == 1.0f ? j + 1 : 0, others += z[j] != 1.0f && z[j] != 0.0f;
        if (found < 1 || found > classes || others || z[found - 1] != 1.0f) return 0;
        index[r] = (int32_t)(r % count * classes + found - 1);
    }
    return 1;
}
