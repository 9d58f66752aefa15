/* The arithmetic of fused.c for one vector width. Included once per instruction set, with FN(name) and BYTES defined.

   Every function works on rows: row r of an array begins at `base + r * stride`, strides count numbers, not bytes.
   Nothing is kept between calls; what a function needs for a while is on its stack or handed in. */

#define LANES ((int)(BYTES / sizeof(float)))
#define VECS (PANEL / LANES) /* vectors per panel row */

typedef float FN(vec) __attribute__((vector_size(BYTES)));
typedef float FN(loose) __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef int32_t FN(ints) __attribute__((vector_size(BYTES)));
#define vec FN(vec)
#define ints FN(ints)

static INLINE vec FN(load)(const float *p) { return *(const FN(loose) *)p; }
static INLINE void FN(store)(float *p, vec x) { *(FN(loose) *)p = x; }
static INLINE vec FN(fill)(float x) { return x - (vec){0}; }

static INLINE float FN(total)(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

static INLINE vec FN(root)(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
    return x;
}

/* Where the mask is set `a`, else `b`. */
static INLINE vec FN(pick)(ints mask, vec a, vec b) { return (vec)(((ints)a & mask) | ((ints)b & ~mask)); }

/* The first `count` < LANES numbers, then zeros. */
static INLINE vec FN(load_some)(const float *p, int64_t count) {
    vec x = {0};
    memcpy(&x, p, (size_t)count * sizeof(float));
    return x;
}

/* e^x to 2 units in the last place; NaN stays NaN, below -87 it is about 1e-38, above 88 about 2e38. */
static INLINE vec FN(exp)(vec x) {
    const vec low = FN(fill)(-87.3f), high = FN(fill)(88.3f), magic = FN(fill)(12582912.0f);
    x = FN(pick)(x < low, low, x);
    x = FN(pick)(x > high, high, x);
    vec shifted = x * 1.44269504f + magic;
    ints power = (ints)shifted - (ints)magic;
    vec whole = shifted - magic;
    vec r = x - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    return y * (vec)((power + 127) << 23);
}

static INLINE vec FN(sigmoid)(vec x) { return 1.0f / (1.0f + FN(exp)(-x)); }
static INLINE vec FN(tanh)(vec x) { return 2.0f * FN(sigmoid)(2.0f * x) - 1.0f; }
static INLINE vec FN(elu)(vec x) { return FN(pick)(x > 0.0f, x, FN(exp)(x) - 1.0f); }

/* Runs `body` with an offset `i` for each whole vector of `size` numbers, and once for what is left, where LOAD and STORE
   touch `size - i` numbers only. */
#define EACH(size, body)                                                   \
    do {                                                                   \
        int64_t i = 0;                                                     \
        for (; i + LANES <= (size); i += LANES) { WHOLE(body) }            \
        if (i < (size)) { const int64_t left = (size) - i; PART(body) }    \
    } while (0)

#define LOAD(p) (left ? FN(load_some)((p) + i, left) : FN(load)((p) + i))
#define STORE(p, x)                                                        \
    do {                                                                   \
        vec stored = (x);                                                  \
        if (left == LANES / 2) memcpy((p) + i, &stored, BYTES / 2);        \
        else if (left) memcpy((p) + i, &stored, (size_t)left * sizeof(float)); \
        else FN(store)((p) + i, stored);                                   \
    } while (0)
#define WHOLE(body) { const int64_t left = 0; body }
#define PART(body) body

/* ------------------------------------------------------------------------------------------------------- products */

/* `rows` (a constant after inlining) rows of one panel: out[r, 0:width] = start + in[r, :] * panel. Element (r, k) of `in`
   is in[r * in_step + k * k_step], row k of the panel begins at panel + k * panel_step. */
static INLINE void FN(tile_of)(const int rows, const int vecs, int64_t depth, const float *in, int64_t in_step, int64_t k_step, const float *panel,
                            int64_t panel_step, const float *bias, int add, float *out, int64_t out_step, int64_t width) {
    vec sum[TILE][VECS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) sum[r][v] = (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        vec weights[VECS];
        for (int v = 0; v < vecs; v++) weights[v] = FN(load)(panel + k * panel_step + v * LANES);
        for (int r = 0; r < rows; r++) {
            const float x = in[r * in_step + k * k_step];
            for (int v = 0; v < vecs; v++) sum[r][v] += x * weights[v];
        }
    }
    for (int r = 0; r < rows; r++) {
        float *to = out + r * out_step;
        for (int v = 0; v < vecs; v++) {
            const int64_t i = v * LANES;
            if (i >= width) break;
            const int64_t left = i + LANES <= width ? 0 : width - i;
            vec y = sum[r][v];
            if (bias) y += LOAD(bias);
            if (add) y += LOAD(to);
            STORE(to, y);
        }
    }
}

/* Half of a panel and less is done with the first vector alone. */
static INLINE void FN(tile)(const int rows, int64_t depth, const float *in, int64_t in_step, int64_t k_step, const float *panel,
                            int64_t panel_step, const float *bias, int add, float *out, int64_t out_step, int64_t width) {
    if (width <= LANES) FN(tile_of)(rows, 1, depth, in, in_step, k_step, panel, panel_step, bias, add, out, out_step, width);
    else FN(tile_of)(rows, VECS, depth, in, in_step, k_step, panel, panel_step, bias, add, out, out_step, width);
}

/* out (rows, outs) = in (rows, depth) * packed, + bias, + what stands there if `add`. packed: see `pack` in fused.c. */
static void FN(product)(int64_t rows, int64_t depth, int64_t outs, const float *in, int64_t in_step, const float *packed,
                        const float *bias, int add, float *out, int64_t out_step) {
    for (int64_t n = 0; n < outs; n += PANEL, packed += depth * PANEL) {
        const int64_t width = outs - n < PANEL ? outs - n : PANEL;
        const float *b = bias ? bias + n : 0;
        int64_t r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            FN(tile)(ROWS, depth, in + r * in_step, in_step, 1, packed, PANEL, b, add, out + r * out_step + n, out_step, width);
        for (; ROWS > 2 && r + 2 <= rows; r += 2)
            FN(tile)(2, depth, in + r * in_step, in_step, 1, packed, PANEL, b, add, out + r * out_step + n, out_step, width);
        for (; r < rows; r++)
            FN(tile)(1, depth, in + r * in_step, in_step, 1, packed, PANEL, b, add, out + r * out_step + n, out_step, width);
    }
}

/* Short runs of numbers, whose lengths are often multiples of four. */
static INLINE void FN(copy)(int64_t size, const float *from, float *to) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) FN(store)(to + i, FN(load)(from + i));
    for (; i + 4 <= size; i += 4) memcpy(to + i, from + i, 4 * sizeof(float));
    for (; i < size; i++) to[i] = from[i];
}

static INLINE void FN(add)(int64_t size, const float *from, float *to) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) FN(store)(to + i, FN(load)(to + i) + FN(load)(from + i));
    for (; i + 4 <= size; i += 4) *(loose *)(to + i) += *(const loose *)(from + i);
    for (; i < size; i++) to[i] += from[i];
}

/* Gradient of a weight: out (outs, ins) += g' x, over the rows of g (rows, outs) and x (rows, ins). */
static void FN(outer)(int64_t rows, int64_t outs, int64_t ins, const float *g, int64_t g_step, const float *x, int64_t x_step,
                      float *out, int64_t out_step) {
    float rest[BLOCK * PANEL]; /* the last panel, where it is narrower: filled up with zeros */
    for (int64_t k = 0; k < rows; k += BLOCK, g += BLOCK * g_step, x += BLOCK * x_step) {
        const int64_t depth = rows - k < BLOCK ? rows - k : BLOCK;
        for (int64_t n = 0; n < ins; n += PANEL) {
            const int64_t width = ins - n < PANEL ? ins - n : PANEL;
            const float *panel = x + n;
            int64_t step = x_step, r = 0;
            if (width < PANEL) {
                memset(rest, 0, sizeof rest);
                for (int64_t i = 0; i < depth; i++) FN(copy)(width, x + i * x_step + n, rest + i * PANEL);
                panel = rest, step = PANEL;
            }
            for (; r + ROWS <= outs; r += ROWS)
                FN(tile)(ROWS, depth, g + r, 1, g_step, panel, step, 0, 1, out + r * out_step + n, out_step, width);
            for (; r < outs; r++) FN(tile)(1, depth, g + r, 1, g_step, panel, step, 0, 1, out + r * out_step + n, out_step, width);
        }
    }
}

/* out (size,) += the rows of `columns` (classes, size) that `index` (count,) names. */
static void FN(gather)(int64_t count, const int32_t *index, const float *columns, int64_t size, float *out) {
    EACH(size, {
        vec sum = LOAD(out);
        for (int64_t s = 0; s < count; s++) sum += LOAD(columns + index[s] * size);
        STORE(out, sum);
    });
}

/* ----------------------------------------------------------------------------------------------- norm and activation */

/* y = elu(norm(before)), one row; norm and elu where they are. Gives mean and 1 / deviation for the way back. */
static void FN(normed)(const Norm *norm, int elu, int64_t size, const float *before, float *y, float *mean, float *rstd) {
    float centre = 0, scale = 1;
    if (norm->gamma) {
        vec sum = {0}, squares = {0};
        EACH(size, { sum += LOAD(before); });
        centre = FN(total)(sum) / (float)size;
        const vec c = FN(fill)(centre);
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) {
            vec d = FN(load)(before + i) - c;
            squares += d * d;
        }
        float rest = 0;
        for (; i < size; i++) rest += (before[i] - centre) * (before[i] - centre);
        scale = 1.0f / sqrtf((FN(total)(squares) + rest) / (float)size + norm->eps);
    }
    EACH(size, {
        vec x = LOAD(before);
        if (norm->gamma) x = (x - centre) * scale * LOAD(norm->gamma) + LOAD(norm->beta);
        STORE(y, elu ? FN(elu)(x) : x);
    });
    if (mean) *mean = centre, *rstd = scale;
}

/* The way back, one row: g (of y) -> to_before. Added to `sums`, where they are wanted: what the row does to the gradients
   of the bias of what came before and of the norm's weight and bias. */
static void FN(normed_back)(const Norm *norm, int elu, int64_t size, const float *g, const float *before, const float *y,
                            float mean, float rstd, const Sums *sums, float *to_before) {
    vec sum = {0}, along = {0};
    EACH(size, {
        vec d = LOAD(g);
        if (elu) {
            vec out = LOAD(y);
            d = FN(pick)(out > 0.0f, d, d * (out + 1.0f));
        }
        if (norm->gamma) {
            vec x = (LOAD(before) - mean) * rstd;
            if (sums->gamma) STORE(sums->gamma, LOAD(sums->gamma) + d * x);
            if (sums->beta) STORE(sums->beta, LOAD(sums->beta) + d);
            d *= LOAD(norm->gamma);
            sum += d;
            along += d * x; /* beyond the end d is 0 */
        } else if (sums->bias) STORE(sums->bias, LOAD(sums->bias) + d);
        STORE(to_before, d);
    });
    if (!norm->gamma) return;
    const float a = FN(total)(sum) / (float)size, b = FN(total)(along) / (float)size;
    EACH(size, {
        vec x = (LOAD(before) - mean) * rstd;
        vec d = (LOAD(to_before) - a - x * b) * rstd;
        STORE(to_before, d);
        if (sums->bias) STORE(sums->bias, LOAD(sums->bias) + d);
    });
}

/* ----------------------------------------------------------------------------------------------------- the cell */

/* h' from the normed gates (3D,): reset, candidate, update. parts (4D,): what the way back needs, or null. */
static void FN(cell)(int64_t size, const float *gates, const float *h, float *parts, float *out) {
    EACH(size, {
        vec reset = FN(sigmoid)(LOAD(gates));
        vec candidate = LOAD(gates + size);
        vec update = FN(sigmoid)(LOAD(gates + 2 * size) - 1.0f);
        vec made = FN(tanh)(reset * candidate);
        vec old = LOAD(h);
        if (parts) {
            STORE(parts, reset);
            STORE(parts + size, candidate);
            STORE(parts + 2 * size, made);
            STORE(parts + 3 * size, update);
        }
        STORE(out, old + update * (made - old));
    });
}

/* g (D,) of h' -> to_gates (3D,) of the normed gates, to_h (D,) of the direct way. h is null where it was erased. */
static void FN(cell_back)(int64_t size, const float *g, const float *parts, const float *h, float *to_gates, float *to_h) {
    EACH(size, {
        vec d = LOAD(g);
        vec reset = LOAD(parts);
        vec candidate = LOAD(parts + size);
        vec made = LOAD(parts + 2 * size);
        vec update = LOAD(parts + 3 * size);
        vec to_made = d * update;
        vec inner = to_made * (1.0f - made * made);
        vec to_update = d * (made - LOAD(h)) * update * (1.0f - update);
        STORE(to_gates, inner * candidate * reset * (1.0f - reset));
        STORE(to_gates + size, inner * reset);
        STORE(to_gates + 2 * size, to_update);
        STORE(to_h, d - to_made);
    });
}

/* --------------------------------------------------------------------------------------------------- categoricals */

/* Softmax of each of the `count` categoricals of one row and a draw from each: class = how many of the cumulative
   probabilities are at most noise * their total, as torch does it (its cumsum adds in double). index counts over all. */
static void FN(draw)(int64_t count, int64_t classes, const float *stats, const float *noise, float *probs, int32_t *index) {
    const int64_t size = count * classes;
    for (int64_t s = 0; s < size; s += classes) {
        const float *x = stats + s;
        float most = x[0];
        int64_t j = 0;
        if (classes >= 8) {
            float eight[8];
            memcpy(eight, x, sizeof eight);
            for (j = 8; j + 8 <= classes; j += 8)
                for (int k = 0; k < 8; k++) eight[k] = x[j + k] > eight[k] ? x[j + k] : eight[k];
            for (int k = 0; k < 8; k++) most = eight[k] > most ? eight[k] : most;
        }
        for (; j < classes; j++) most = x[j] > most ? x[j] : most;
        for (j = 0; j < classes; j++) probs[s + j] = x[j] - most;
    }
    EACH(size, { STORE(probs, FN(exp)(LOAD(probs))); });
    for (int64_t s = 0; s < count; s++) {
        float *p = probs + s * classes;
        float sum = 0;
        for (int64_t j = 0; j < classes; j++) sum += p[j];
        const float share = 1.0f / sum;
        double all = 0;
        for (int64_t j = 0; j < classes; j++) all += (double)(p[j] *= share);
        const float threshold = noise[s] * (float)all;
        double so_far = 0;
        int64_t found = 0;
        for (int64_t j = 0; j < classes; j++) found += (float)(so_far += (double)p[j]) <= threshold;
        index[s] = (int32_t)(s * classes + (found < classes ? found : classes - 1));
    }
}

/* g (of the probabilities) -> added to `to` (of the logits): p (g - sum p g) for each categorical of one row. */
static void FN(softmax_back)(int64_t count, int64_t classes, const float *g, const float *probs, float *to) {
    for (int64_t s = 0; s < count * classes; s += classes) {
        float along = 0;
        for (int64_t j = 0; j < classes; j++) along += g[s + j] * probs[s + j];
        for (int64_t j = 0; j < classes; j++) to[s + j] += probs[s + j] * (g[s + j] - along);
    }
}

/* ------------------------------------------------------------------------------------------------------ the loops */

/* One recurrent step of all rows, and a draw from what `head` and `answer` say of the new h. */
static void FN(advance)(const Rssm *m, const Step *s) {
    const int64_t X = m->x, D = m->d, Y = m->y, Z = m->count * m->classes, J = X + D;
    FN(product)(s->rows, m->a, X, s->action, s->action_step, m->action, m->input_bias, 0, s->pre, s->step * X);
    for (int64_t r = 0; r < s->rows; r++) {
        const int erased = s->first && s->first[r * s->first_step];
        float *pre = s->pre + r * s->step * X, *joined = s->joined + r * s->step * J;
        const float *h = s->h ? s->h + r * s->h_step : 0;
        if (!erased && s->from_z) EACH(X, { STORE(pre, LOAD(pre) + LOAD(s->from_z + r * X)); });
        else if (!erased && s->index) FN(gather)(m->count, s->index + r * s->index_step, m->columns, X, pre);
        if (erased || !h) memset(joined + X, 0, (size_t)D * sizeof(float));
        else memcpy(joined + X, h, (size_t)D * sizeof(float));
        FN(normed)(&m->input_norm, 1, X, pre, joined, s->mean ? s->mean + 3 * r * s->step : 0, s->rstd ? s->rstd + 3 * r * s->step : 0);
    }
    FN(product)(s->rows, J, 3 * D, s->joined, s->step * J, m->gates, m->gates_bias, 0, s->gates, s->step * 3 * D);
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t at = r * s->step;
        FN(normed)(&m->gates_norm, 0, 3 * D, s->gates + at * 3 * D, s->normed, s->mean ? s->mean + 3 * at + 1 : 0, s->rstd ? s->rstd + 3 * at + 1 : 0);
        FN(cell)(D, s->normed, s->joined + at * J + X, s->parts ? s->parts + at * 4 * D : 0, s->out + at * D);
    }
    FN(product)(s->rows, D, Y, s->out, s->step * D, m->head, m->head_bias, s->look_given, s->look, s->step * Y);
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t at = r * s->step;
        FN(normed)(&m->head_norm, 1, Y, s->look + at * Y, s->seen + at * Y, s->mean ? s->mean + 3 * at + 2 : 0, s->rstd ? s->rstd + 3 * at + 2 : 0);
    }
    FN(product)(s->rows, Y, Z, s->seen, s->step * Y, m->answer, m->answer_bias, 0, s->stats, s->step * Z);
    for (int64_t r = 0; r < s->rows; r++) {
        const int64_t at = r * s->step;
        FN(draw)(m->count, m->classes, s->stats + at * Z, s->noise + r * s->noise_step, s->probs + at * Z, s->drawn + at * m->count);
    }
}

/* The way back of a scan: T steps of B rows, see `Back` in fused.c. */
static void FN(back)(const Rssm *m, const BackWeights *w, const Back *b) {
    const int64_t X = m->x, D = m->d, Y = m->y, S = m->count, Z = S * m->classes, J = X + D, T = b->length;
    for (int64_t t = T - 1; t >= 0; t--) {
        const int later = t < T - 1;
        for (int64_t r = 0; r < b->rows; r++) {
            const int64_t at = r * T + t;
            float *g = b->g_stats + at * Z;
            if (b->of_stats) memcpy(g, b->of_stats + at * Z, (size_t)Z * sizeof(float));
            else memset(g, 0, (size_t)Z * sizeof(float));
            float *carried = b->carry_probs + r * Z;
            if (!later) memset(carried, 0, (size_t)Z * sizeof(float));
            if (b->of_probs) EACH(Z, { STORE(carried, LOAD(carried) + LOAD(b->of_probs + at * Z)); });
            FN(softmax_back)(S, m->classes, carried, b->probs + at * Z, g);
        }
        FN(product)(b->rows, Z, Y, b->g_stats + t * Z, T * Z, w->answer, 0, 0, b->wide, Y);
        for (int64_t r = 0; r < b->rows; r++) {
            const int64_t at = r * T + t;
            FN(normed_back)(&m->head_norm, 1, Y, b->wide + r * Y, b->look + at * Y, b->seen + at * Y, b->mean[3 * at + 2], b->rstd[3 * at + 2],
                            &b->look_sums, b->to_look + at * Y);
            float *g = b->carry_h + r * D;
            if (!later) memset(g, 0, (size_t)D * sizeof(float));
            if (b->of_deter) EACH(D, { STORE(g, LOAD(g) + LOAD(b->of_deter + at * D)); });
        }
        FN(product)(b->rows, Y, D, b->to_look + t * Y, T * Y, w->head, 0, 1, b->carry_h, D);
        for (int64_t r = 0; r < b->rows; r++) {
            const int64_t at = r * T + t;
            float *direct = b->direct + r * D, *normed = b->wide;
            FN(cell_back)(D, b->carry_h + r * D, b->parts + at * 4 * D, b->joined + at * J + X, normed, direct);
            FN(normed_back)(&m->gates_norm, 0, 3 * D, normed, b->gates + at * 3 * D, 0, b->mean[3 * at + 1], b->rstd[3 * at + 1],
                            &b->gates_sums, b->to_gates + at * 3 * D);
        }
        FN(product)(b->rows, 3 * D, J, b->to_gates + t * 3 * D, T * 3 * D, w->gates, 0, 0, b->wide, J);
        for (int64_t r = 0; r < b->rows; r++) {
            const int64_t at = r * T + t;
            const float *g = b->wide + r * J;
            FN(normed_back)(&m->input_norm, 1, X, g, b->pre + at * X, b->joined + at * J, b->mean[3 * at], b->rstd[3 * at],
                            &b->pre_sums, b->to_pre + at * X);
            float *carry = b->carry_h + r * D;
            if (b->first[at]) memset(carry, 0, (size_t)D * sizeof(float));
            else EACH(D, { STORE(carry, LOAD(b->direct + r * D) + LOAD(g + X)); });
        }
        if (!t) break;
        FN(product)(b->rows, X, Z, b->to_pre + t * X, T * X, w->from_z, 0, 0, b->carry_probs, Z);
        for (int64_t r = 0; r < b->rows; r++)
            if (b->first[r * T + t]) memset(b->carry_probs + r * Z, 0, (size_t)Z * sizeof(float));
    }
}

/* The transpose of `gather`: out (classes, width), zero before, += g of each row at the rows that its index names. */
static void FN(scatter)(int64_t rows, int64_t count, const int32_t *index, const float *g, int64_t width, float *out) {
    for (int64_t r = 0; r < rows; r++, index += count, g += width)
        for (int64_t s = 0; s < count; s++) {
            float *to = out + index[s] * width;
            EACH(width, { STORE(to, LOAD(to) + LOAD(g)); });
        }
}

/* y = elu(norm(W [z, x] + b)) of one layer, all rows; index null where there is no z. `before`, what enters the norm, may be
   y itself; mean and rstd (rows,) may be null. */
static void FN(layer)(const Layer *l, int64_t rows, const float *x, int64_t x_step, const int32_t *index, int64_t index_step,
                      float *before, float *mean, float *rstd, float *y) {
    const int64_t outs = l->outs;
    FN(product)(rows, l->ins, outs, x, x_step, l->packed, l->bias, 0, before, outs);
    for (int64_t r = 0; r < rows; r++, before += outs, y += outs) {
        if (index) FN(gather)(l->count, index + r * index_step, l->columns, outs, before);
        if (l->norm.gamma || l->elu) FN(normed)(&l->norm, l->elu, outs, before, y, mean ? mean + r : 0, rstd ? rstd + r : 0);
    }
}

/* The way back of at most BLOCK rows of a layer: g of y, which is overwritten by that of what enters the norm. Gradients of
   weights are added to. */
static void FN(layer_back)(const Layer *l, const LayerBack *b, int64_t rows, float *g, const float *before, const float *mean,
                           const float *rstd, const float *y, const float *x, int64_t x_step, const int32_t *index,
                           int64_t index_step, float *to_x, float *to_probs) {
    const int64_t outs = l->outs;
    for (int64_t r = 0; r < rows; r++)
        FN(normed_back)(&l->norm, (int)l->elu, outs, g + r * outs, before + r * outs, y + r * outs, l->norm.gamma ? mean[r] : 0,
                        l->norm.gamma ? rstd[r] : 0, &b->sums, g + r * outs);
    if (b->weight) FN(outer)(rows, outs, l->ins, g, outs, x, x_step, b->weight + l->classes, l->classes + l->ins);
    for (int64_t r = 0; b->scattered && r < rows; r++) FN(scatter)(1, l->count, index + r * index_step, g + r * outs, outs, b->scattered);
    if (to_x) FN(product)(rows, outs, l->ins, g, outs, b->packed, 0, 0, to_x, l->ins);
    if (to_probs) FN(product)(rows, outs, l->classes, g, outs, b->columns, 0, 0, to_probs, l->classes);
}

/* --------------------------------------------------------------------------------------------------- convolutions */

/* The patches of some pixels of the small images, or, the other way, patches added to the big images. */
static INLINE void FN(patches)(const Conv *c, int64_t first, int64_t count, float *big, float *room, const int add) {
    const int64_t run = c->kernel * c->channels, line = c->width * c->channels, pixels = c->rows * c->cols;
    int64_t image = first / pixels, y = first % pixels / c->cols, x = first % c->cols;
    for (int64_t r = 0; r < count; r++) {
        float *at = big + (image * c->height + 2 * y) * line + 2 * x * c->channels;
        for (int64_t k = 0; k < c->kernel; k++, at += line, room += run) {
            if (add) FN(add)(run, room, at);
            else FN(copy)(run, at, room);
        }
        if (++x < c->cols) continue;
        x = 0;
        if (++y < c->rows) continue;
        y = 0, image++;
    }
}

/* elu in place. */
static INLINE void FN(activate)(int64_t size, float *x) {
    EACH(size, { STORE(x, FN(elu)(LOAD(x))); });
}

/* small = elu(W patches of big + b). */
static void FN(down)(const Conv *c, const float *big, float *small, float *room) {
    const int64_t depth = c->kernel * c->kernel * c->channels, all = c->count * c->rows * c->cols, M = c->maps;
    for (int64_t r = 0; r < all; r += BLOCK) {
        const int64_t some = all - r < BLOCK ? all - r : BLOCK;
        FN(patches)(c, r, some, (float *)big, room, 0);
        FN(product)(some, depth, M, room, depth, c->packed, c->bias, 0, small + r * M, M);
        if (c->elu) FN(activate)(some * M, small + r * M);
    }
}

/* big = elu(W' small, patches added up, + b). */
static void FN(up)(const Conv *c, const float *small, float *big, float *room) {
    const int64_t width = c->kernel * c->kernel * c->channels, all = c->count * c->rows * c->cols, M = c->maps;
    const int64_t size = c->count * c->height * c->width, C = c->channels;
    memset(big, 0, (size_t)(size * C) * sizeof(float));
    for (int64_t i = 0; c->bias && i < size; i++) FN(copy)(C, c->bias, big + i * C);
    for (int64_t r = 0; r < all; r += BLOCK) {
        const int64_t some = all - r < BLOCK ? all - r : BLOCK;
        FN(product)(some, M, width, small + r * M, M, c->packed, 0, 0, room, width);
        FN(patches)(c, r, some, big, room, 1);
    }
    if (c->elu) FN(activate)(size * C, big);
}

/* Gradient of W: weight (maps, kernel, kernel, channels), zeros before; of the big images and the small ones one is a gradient. */
static void FN(weight)(const Conv *c, const float *big, const float *small, float *weight, float *room) {
    const int64_t width = c->kernel * c->kernel * c->channels, all = c->count * c->rows * c->cols, M = c->maps;
    for (int64_t r = 0; r < all; r += BLOCK) {
        const int64_t some = all - r < BLOCK ? all - r : BLOCK;
        FN(patches)(c, r, some, (float *)big, room, 0);
        FN(outer)(some, M, width, small + r * M, M, room, width, weight, width);
    }
}

/* g (rows, channels) of elu(x), whose value is y (null: no elu) -> `to` of x, and its sums over rows: bias (channels,). */
static void FN(elu_back)(int64_t rows, int64_t channels, const float *g, const float *y, float *to, float *bias) {
    const int64_t size = rows * channels;
    EACH(size, {
        vec d = LOAD(g);
        if (y) {
            vec out = LOAD(y);
            d = FN(pick)(out > 0.0f, d, d * (out + 1.0f));
        }
        STORE(to, d);
    });
    memset(bias, 0, (size_t)channels * sizeof(float));
    if (channels >= LANES) {
        for (int64_t r = 0; r < rows; r++) FN(add)(channels, to + r * channels, bias);
        return;
    }
    vec sums[LANES]; /* LANES rows are `channels` vectors; number i of them belongs to channel i % channels */
    memset(sums, 0, sizeof sums);
    int64_t r = 0;
    for (; r + LANES <= rows; r += LANES)
        for (int64_t k = 0; k < channels; k++) sums[k] += FN(load)(to + r * channels + k * LANES);
    for (int64_t i = 0; i < channels * LANES; i++) bias[i % channels] += sums[i / LANES][i % LANES];
    for (; r < rows; r++)
        for (int64_t k = 0; k < channels; k++) bias[k] += to[r * channels + k];
}

/* ----------------------------------------------------------------------------------------------------- optimizers */

/* The sum of squares of `size` numbers. */
static double FN(squares)(int64_t size, const float *x) {
    vec sum = {0};
    vec four[4] = {{0}}; /* sums that do not wait for each other */
    for (; size >= 4 * LANES; size -= 4 * LANES, x += 4 * LANES)
        for (int k = 0; k < 4; k++) four[k] += FN(load)(x + k * LANES) * FN(load)(x + k * LANES);
    EACH(size, { vec here = LOAD(x); sum += here * here; });
    return FN(total)(sum + four[0] + four[1] + four[2] + four[3]);
}

/* One step of AdamW; the order of operations is that of torch's fused one. */
static void FN(adam)(const Adam *a, int64_t size, float *w, const float *g, float *mean, float *square) {
    const vec rest = FN(fill)((float)(1 - a->beta1)), beta2 = FN(fill)((float)a->beta2), rest2 = FN(fill)((float)(1 - a->beta2));
    const vec kept = FN(fill)((float)(1 - a->lr * a->decay)), eps = FN(fill)((float)a->eps);
    const vec step = FN(fill)((float)(a->lr / a->correction1 * -1.0)), root = FN(fill)((float)sqrt(a->correction2));
    EACH(size, {
        vec d = LOAD(g);
        vec x = LOAD(w);
        if (a->decay != 0) x = x * kept;
        vec m = LOAD(mean);
        m = m + rest * (d - m);
        STORE(mean, m);
        /* Which of the two products is rounded before the sum: with FMA the compiler takes the right one, torch has the left
           one there in whole vectors and the right one in what is left over. */
        vec old = LOAD(square);
        vec v = left ? old * beta2 + rest2 * d * d : rest2 * d * d + old * beta2;
        STORE(square, v);
        vec scale = FN(root)(v) / root + eps;
        STORE(w, x + step * m / scale);
    });
}

static const Kernels FN(kernels) = {FN(advance), FN(back), FN(layer), FN(layer_back), FN(outer), FN(scatter), FN(squares), FN(adam),
                                   FN(down), FN(up), FN(weight), FN(elu_back)};

#undef vec
#undef ints
#undef LANES
#undef VECS
#undef EACH
#undef LOAD
#undef STORE
#undef WHOLE
#undef PART
#undef FN
#undef BYTES
#undef ROWS
