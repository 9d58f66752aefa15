/* The recurrent loops of scan.py as compiled code: filtering forward and backward, dreaming without gradients, and dense
   layers without gradients. float32. The arithmetic is that of scan.py and steps.py, which are easier to read; the names
   are theirs. fused.py calls this through ctypes: plain C, no torch, no memory of its own, nothing kept between calls, so
   any number of threads may be in it at once.

   Every exported function takes the instruction set to use: 0 plain, 1 AVX2 and FMA, 2 AVX-512; `reverie_best` tells which
   is the best one here. Arrays are dense: (B, T, n) lies as B * T rows of n numbers, row b * T + t. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE inline __attribute__((always_inline))
#define PANEL 32 /* columns of a packed weight that lie together */
#define TILE 8   /* most rows of a tile */

typedef struct { const float *gamma, *beta; float eps; } Norm; /* LayerNorm; no norm where gamma is null */

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

typedef struct { const float *answer, *head, *gates, *from_z; } BackWeights; /* packed for the way back */

typedef struct {
    int64_t rows, length;
    const float *of_deter, *of_stats, *of_probs; /* gradients of the outputs; null for none */
    const float *pre, *joined, *gates, *mean, *rstd, *parts, *look, *seen, *probs;
    const uint8_t *first;
    float *g_stats, *to_look, *normed_look, *to_gates, *normed_gates, *to_pre, *normed_pre; /* normed_*: null without norm */
    float *carry_h, *carry_probs, *direct, *wide; /* (rows, d), (rows, z), (rows, d), (rows, widest), for a while */
} Back;

/* A dense layer, its norm and activation. ins: without z. */
typedef struct {
    int64_t ins, outs, elu, count;
    const float *packed, *bias, *columns;
    Norm norm;
} Layer;

typedef struct {
    void (*advance)(const Rssm *, const Step *);
    void (*back)(const Rssm *, const BackWeights *, const Back *);
    void (*layer)(const Layer *, int64_t, const float *, int64_t, const int32_t *, int64_t, float *);
    void (*scatter)(int64_t, int64_t, const int32_t *, const float *, int64_t, float *);
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
    sizes[4] = sizeof(Layer);
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

/* `count` layers one after the other; the first one also sees z, where index (rows, layers->count) is given. out[l] is
   (rows, outs) of layer l. */
void reverie_layers(int64_t level, int64_t count, const Layer *layers, int64_t rows, const float *x, int64_t x_step,
                    const int32_t *index, int64_t index_step, float *const *out) {
    for (int64_t l = 0; l < count; l++) {
        LEVELS[level]->layer(layers + l, rows, x, x_step, l ? 0 : index, index_step, out[l]);
        x = out[l], x_step = layers[l].outs;
    }
}
