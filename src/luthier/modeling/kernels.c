// The pointwise work of the fast engine on a CPU. kernels.py says what each function computes; kernels_torch.py computes the
// same with torch, slower. No torch header is included, so that this compiles in two seconds.
//
// Each row of a tensor is reduced by one thread in a fixed order: results do not depend on the number of threads.
// All arithmetic is fp32; `half` says whether tensors hold bf16 or fp32.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t i64;
typedef uint16_t bf16;
typedef union { uint32_t u; int32_t i; float f; } word;

static inline float wide(bf16 x) { word w; w.u = (uint32_t)x << 16; return w.f; }

static inline bf16 narrow(float x) {
    word w; w.f = x;
    uint32_t rounded = (w.u + 0x7fffu + ((w.u >> 16) & 1u)) >> 16;
    return (bf16)(x != x ? 0x7fc0u : rounded);
}

// exp to within 2 units in the last place (Cephes' polynomial); 0 and infinity where fp32 has no answer.
static inline float fast_exp(float wanted) {
    float x = wanted < -87.0f ? -87.0f : wanted;
    x = x > 88.0f ? 88.0f : x;
    word shifted, power;
    shifted.f = x * 1.44269504089f + 12582912.0f;  // 1.5 * 2^23: the low bits are now the nearest whole number
    float whole = shifted.f - 12582912.0f;
    float r = x - whole * 0.693359375f;
    r = r + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    power.i = (shifted.i - 0x4B400000 + 127) << 23;
    p *= power.f;
    p = wanted < -87.0f ? 0.0f : p;
    return wanted > 88.0f ? INFINITY : p;
}

static void load(float *row, const void *from, i64 at, i64 n, int half) {
    if (half) {
        const bf16 *x = (const bf16 *)from + at;
#pragma omp simd
        for (i64 i = 0; i < n; i++) row[i] = wide(x[i]);
    } else {
        const float *x = (const float *)from + at;
#pragma omp simd
        for (i64 i = 0; i < n; i++) row[i] = x[i];
    }
}

static void store(const float *row, void *to, i64 at, i64 n, int half) {
    if (half) {
        bf16 *y = (bf16 *)to + at;
#pragma omp simd
        for (i64 i = 0; i < n; i++) y[i] = narrow(row[i]);
    } else {
        float *y = (float *)to + at;
#pragma omp simd
        for (i64 i = 0; i < n; i++) y[i] = row[i];
    }
}

static void store_zeros(void *to, i64 at, i64 n, int half) {
    size_t size = half ? sizeof(bf16) : sizeof(float);
    memset((char *)to + (size_t)at * size, 0, (size_t)n * size);
}

static void copy(const void *from, i64 source, void *to, i64 target, i64 n, int half) {
    size_t size = half ? sizeof(bf16) : sizeof(float);
    memcpy((char *)to + (size_t)target * size, (const char *)from + (size_t)source * size, (size_t)n * size);
}

static float inverse_rms(const float *x, i64 D, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < D; i++) sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / (float)D + eps);
}

// ---- norms -------------------------------------------------------------------------------------------------------------

// delta and sum may be NULL: then x itself is normed.
void rms_norm(const void *x, const void *delta, void *sum, const float *weight, void *y, i64 T, i64 D, float eps, int half,
              int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *row = malloc((size_t)D * 2 * sizeof(float)), *other = row + D;
#pragma omp for schedule(static)
        for (i64 t = 0; t < T; t++) {
            load(row, x, t * D, D, half);
            if (delta) {
                load(other, delta, t * D, D, half);
#pragma omp simd
                for (i64 i = 0; i < D; i++) row[i] += other[i];
                store(row, sum, t * D, D, half);
                load(row, sum, t * D, D, half);  // as rounded: the way back will see this very sum
            }
            float r = inverse_rms(row, D, eps);
#pragma omp simd
            for (i64 i = 0; i < D; i++) row[i] *= r * weight[i];
            store(row, y, t * D, D, half);
        }
        free(row);
    }
}

// residual may be NULL.
void rms_norm_backward(const void *dy, const void *x, const float *weight, const void *residual, void *dx, i64 T, i64 D,
                       float eps, int half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *row = malloc((size_t)D * 3 * sizeof(float)), *g = row + D, *rest = g + D;
#pragma omp for schedule(static)
        for (i64 t = 0; t < T; t++) {
            load(row, x, t * D, D, half);
            load(g, dy, t * D, D, half);
            float r = inverse_rms(row, D, eps), dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (i64 i = 0; i < D; i++) {
                g[i] *= weight[i];
                row[i] *= r;
                dot += g[i] * row[i];
            }
            dot /= (float)D;
            if (residual) load(rest, residual, t * D, D, half);
            else memset(rest, 0, (size_t)D * sizeof(float));
#pragma omp simd
            for (i64 i = 0; i < D; i++) rest[i] += r * (g[i] - row[i] * dot);
            store(rest, dx, t * D, D, half);
        }
        free(row);
    }
}

// ---- gated layers ------------------------------------------------------------------------------------------------------

// The gate's value and slope at each of n places.
static void gate_of(const float *x, float *value, float *slope, i64 n, int gelu) {
    if (!gelu) {
#pragma omp simd
        for (i64 i = 0; i < n; i++) {
            float s = 1.0f / (1.0f + fast_exp(-x[i]));
            value[i] = x[i] * s;
            slope[i] = s * (1.0f + x[i] * (1.0f - s));
        }
        return;
    }
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        float inner = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        float tanh = 1.0f - 2.0f / (fast_exp(2.0f * inner) + 1.0f);
        float inner_slope = 0.7978845608f * (1.0f + 3.0f * 0.044715f * x[i] * x[i]);
        value[i] = 0.5f * x[i] * (1.0f + tanh);
        slope[i] = 0.5f * (1.0f + tanh) + 0.5f * x[i] * (1.0f - tanh * tanh) * inner_slope;
    }
}

void gated(const void *gate_up, void *y, i64 T, i64 I, int gelu, int half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *gate = malloc((size_t)I * 4 * sizeof(float)), *up = gate + I, *value = up + I, *slope = value + I;
#pragma omp for schedule(static)
        for (i64 t = 0; t < T; t++) {
            load(gate, gate_up, 2 * t * I, 2 * I, half);
            gate_of(gate, value, slope, I, gelu);
#pragma omp simd
            for (i64 i = 0; i < I; i++) value[i] *= up[i];
            store(value, y, t * I, I, half);
        }
        free(gate);
    }
}

void gated_backward(const void *gate_up, const void *dy, void *dgate_up, void *y, i64 T, i64 I, int gelu, int half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *gate = malloc((size_t)I * 5 * sizeof(float)), *up = gate + I, *value = up + I, *slope = value + I, *d = slope + I;
#pragma omp for schedule(static)
        for (i64 t = 0; t < T; t++) {
            load(gate, gate_up, 2 * t * I, 2 * I, half);
            load(d, dy, t * I, I, half);
            gate_of(gate, value, slope, I, gelu);
#pragma omp simd
            for (i64 i = 0; i < I; i++) {
                float u = up[i], v = value[i];
                gate[i] = d[i] * u * slope[i];
                up[i] = d[i] * v;
                value[i] = u * v;
            }
            store(gate, dgate_up, 2 * t * I, 2 * I, half);
            store(value, y, t * I, I, half);
        }
        free(gate);
    }
}

// ---- heads: packed tokens <-> rows of a bucket ---------------------------------------------------------------------------

// How a bucket of n rows lies: row b has lengths[b] tokens from starts[b] on, the longest has L. H query heads, K key heads,
// E wide; G = H / K query heads share a key head and lie below each other.
typedef struct { const i64 *starts, *lengths; i64 n, L, H, K, E; } bucket;

static void turn(float *x, const float *cos, const float *sin, i64 E, float direction) {
    i64 middle = E / 2;
#pragma omp simd
    for (i64 i = 0; i < middle; i++) {
        float low = x[i], high = x[i + middle];
        x[i] = direction > 0 ? low * cos[i] - high * sin[i] : low * cos[i] + high * sin[i + middle];
        x[i + middle] = direction > 0 ? high * cos[i + middle] + low * sin[i + middle] : high * cos[i + middle] - low * sin[i];
    }
}

void heads_out(const void *qkv, const bucket *b, const float *cos, const float *sin, void *query, void *key, void *value,
               int half, int threads) {
    i64 H = b->H, K = b->K, E = b->E, L = b->L, G = H / K, X = (H + 2 * K) * E;
#pragma omp parallel num_threads(threads)
    {
        float *row = malloc((size_t)E * sizeof(float));
#pragma omp for schedule(static)
        for (i64 place = 0; place < b->n * L; place++) {
            i64 r = place / L, l = place % L, from = (b->starts[r] + l) * X;
            int real = l < b->lengths[r];
            for (i64 h = 0; h < H + K; h++) {
                i64 group = h < H ? h / G : h - H;
                i64 to = h < H ? (((r * K + group) * G + h % G) * L + l) * E : ((r * K + group) * L + l) * E;
                void *target = h < H ? query : key;
                if (!real) { store_zeros(target, to, E, half); continue; }
                load(row, qkv, from + h * E, E, half);
                turn(row, cos + l * E, sin + l * E, E, 1.0f);
                store(row, target, to, E, half);
            }
            for (i64 k = 0; k < K; k++) {
                i64 to = ((r * K + k) * L + l) * E;
                if (real) copy(qkv, from + (H + K + k) * E, value, to, E, half);
                else store_zeros(value, to, E, half);
            }
        }
        free(row);
    }
}

void heads_back(const void *dquery, const void *dkey, const void *dvalue, const bucket *b, const float *cos, const float *sin,
                void *dqkv, int half, int threads) {
    i64 H = b->H, K = b->K, E = b->E, L = b->L, G = H / K, X = (H + 2 * K) * E;
#pragma omp parallel num_threads(threads)
    {
        float *row = malloc((size_t)E * sizeof(float));
#pragma omp for schedule(static)
        for (i64 place = 0; place < b->n * L; place++) {
            i64 r = place / L, l = place % L, to = (b->starts[r] + l) * X;
            if (l >= b->lengths[r]) continue;
            for (i64 h = 0; h < H + K; h++) {
                i64 group = h < H ? h / G : h - H;
                i64 from = h < H ? (((r * K + group) * G + h % G) * L + l) * E : ((r * K + group) * L + l) * E;
                load(row, h < H ? dquery : dkey, from, E, half);
                turn(row, cos + l * E, sin + l * E, E, -1.0f);
                store(row, dqkv, to + h * E, E, half);
            }
            for (i64 k = 0; k < K; k++) copy(dvalue, ((r * K + k) * L + l) * E, dqkv, to + (H + K + k) * E, E, half);
        }
        free(row);
    }
}

void attention_out(const void *heads, const bucket *b, void *out, int half, int threads) {
    i64 H = b->H, K = b->K, E = b->E, L = b->L, G = H / K;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 place = 0; place < b->n * L; place++) {
        i64 r = place / L, l = place % L;
        if (l >= b->lengths[r]) continue;
        for (i64 h = 0; h < H; h++)
            copy(heads, (((r * K + h / G) * G + h % G) * L + l) * E, out, ((b->starts[r] + l) * H + h) * E, E, half);
    }
}

void attention_in(const void *out, const bucket *b, void *heads, int half, int threads) {
    i64 H = b->H, K = b->K, E = b->E, L = b->L, G = H / K;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 place = 0; place < b->n * L; place++) {
        i64 r = place / L, l = place % L;
        for (i64 h = 0; h < H; h++) {
            i64 to = (((r * K + h / G) * G + h % G) * L + l) * E;
            if (l < b->lengths[r]) copy(out, ((b->starts[r] + l) * H + h) * E, heads, to, E, half);
            else store_zeros(heads, to, E, half);
        }
    }
}

// ---- softmax -----------------------------------------------------------------------------------------------------------

static void softmax_row(float *row, i64 n, float scale) {
    float most = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : most)
    for (i64 j = 0; j < n; j++) most = row[j] > most ? row[j] : most;
#pragma omp simd reduction(+ : sum)
    for (i64 j = 0; j < n; j++) {
        row[j] = fast_exp((row[j] - most) * scale);
        sum += row[j];
    }
    float part = 1.0f / sum;
#pragma omp simd
    for (i64 j = 0; j < n; j++) row[j] *= part;
}

// scores has `rows` rows of L; row i stands for place i % L, and sees places 0 .. i % L, or the last `window` of those.
void causal_softmax(void *scores, i64 rows, i64 L, float scale, i64 window, int half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *row = malloc((size_t)L * sizeof(float));
#pragma omp for schedule(static)
        for (i64 i = 0; i < rows; i++) {
            i64 last = i % L, first = window && last >= window ? last - window + 1 : 0, n = last - first + 1;
            load(row, scores, i * L + first, n, half);
            softmax_row(row, n, scale);
            store_zeros(scores, i * L, first, half);
            store(row, scores, i * L + first, n, half);
            store_zeros(scores, i * L + last + 1, L - last - 1, half);
        }
        free(row);
    }
}

void softmax_backward(const void *probs, void *dprobs, i64 rows, i64 L, float scale, int half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *p = malloc((size_t)L * 2 * sizeof(float)), *d = p + L;
#pragma omp for schedule(static)
        for (i64 i = 0; i < rows; i++) {
            i64 n = i % L + 1;
            load(p, probs, i * L, n, half);
            load(d, dprobs, i * L, n, half);
            float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (i64 j = 0; j < n; j++) dot += p[j] * d[j];
#pragma omp simd
            for (i64 j = 0; j < n; j++) d[j] = p[j] * (d[j] - dot) * scale;
            store(d, dprobs, i * L, n, half);
            store_zeros(dprobs, i * L + n, L - n, half);
        }
        free(p);
    }
}

// logits become onehot(target) - softmax; logp gets the log-probability of the target.
void logprob_slope(void *logits, const i64 *target, float *logp, i64 C, i64 V, int half, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *row = malloc((size_t)V * sizeof(float));
#pragma omp for schedule(static)
        for (i64 c = 0; c < C; c++) {
            load(row, logits, c * V, V, half);
            float most = -INFINITY, sum = 0.0f, wanted = row[target[c]];
#pragma omp simd reduction(max : most)
            for (i64 v = 0; v < V; v++) most = row[v] > most ? row[v] : most;
#pragma omp simd reduction(+ : sum)
            for (i64 v = 0; v < V; v++) {
                row[v] = fast_exp(row[v] - most);
                sum += row[v];
            }
            logp[c] = wanted - most - logf(sum);
            float part = -1.0f / sum;
#pragma omp simd
            for (i64 v = 0; v < V; v++) row[v] *= part;
            row[target[c]] += 1.0f;
            store(row, logits, c * V, V, half);
        }
        free(row);
    }
}

// ---- dropout -----------------------------------------------------------------------------------------------------------

// 64 bits for a token; SplitMix64, https://doi.org/10.1145/2714064.2660195
static uint64_t draw_row(uint64_t key, uint64_t token) {
    uint64_t x = key + token * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// 32 bits for a column of it; two multiplications leave columns correlated by 0.001. Multipliers from https://nullprogram.com/blog/2018/07/31/
static inline int32_t draw(uint64_t row, uint32_t column) {
    uint32_t x = column ^ (uint32_t)row;
    x = (x ^ x >> 17) * 0xed5ad4bbu;
    x = (x ^ x >> 11) * 0xac4c1b51u + (uint32_t)(row >> 32);
    return (int32_t)((x ^ x >> 15) * 0x31848babu);
}

void dropped(const void *x, void *y, i64 T, i64 I, i64 key, i64 first, int32_t below, int half, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 t = 0; t < T; t++) {
        uint64_t row = draw_row((uint64_t)key, (uint64_t)(first + t));
        uint32_t n = (uint32_t)I;
        if (half) {
            const bf16 *from = (const bf16 *)x + t * I;
            bf16 *to = (bf16 *)y + t * I;
#pragma omp simd
            for (uint32_t i = 0; i < n; i++) to[i] = draw(row, i) < below ? 0 : from[i];
        } else {
            const float *from = (const float *)x + t * I;
            float *to = (float *)y + t * I;
#pragma omp simd
            for (uint32_t i = 0; i < n; i++) to[i] = draw(row, i) < below ? 0.0f : from[i];
        }
    }
}

void add_dropped(void *sum, const void *x, i64 T, i64 I, i64 key, i64 first, int32_t below, int half, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 t = 0; t < T; t++) {
        uint64_t row = draw_row((uint64_t)key, (uint64_t)(first + t));
        uint32_t n = (uint32_t)I;
        if (half) {
            const bf16 *from = (const bf16 *)x + t * I;
            bf16 *to = (bf16 *)sum + t * I;
#pragma omp simd
            for (uint32_t i = 0; i < n; i++) to[i] = draw(row, i) < below ? to[i] : narrow(wide(to[i]) + wide(from[i]));
        } else {
            const float *from = (const float *)x + t * I;
            float *to = (float *)sum + t * I;
#pragma omp simd
            for (uint32_t i = 0; i < n; i++) to[i] = draw(row, i) < below ? to[i] : to[i] + from[i];
        }
    }
}
