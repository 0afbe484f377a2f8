// The steps of decoding that are no matrix product of all tokens: attention to the cache, and adapters, each token its own.
// Compiled as the end of kernels.c.

// Inner values, and outputs, of one token that a thread works on at a time.
enum { LOW_RANK_BLOCK = 8, LOW_RANK_CHUNK = 256 };

// Where a token stands in its own row: the row's keys and values, each (layers, K, room, E), and how many tokens are before it.
typedef struct { void *keys, *values; i64 room, place; } seat;

// Each token turns its query and key, writes key and value into its row, and attends to all of its row up to itself, or to the
// last `window` of it. Tokens of one row stand in order.
void attend(const void *qkv, const seat *seats, const float *cos, const float *sin, void *out, i64 T, i64 H, i64 K, i64 E,
            i64 layer, i64 window, float scale, int half, int threads) {
    i64 G = H / K, X = (H + 2 * K) * E, most = 0;
    for (i64 t = 0; t < T; t++) most = seats[t].place >= most ? seats[t].place + 1 : most;
#pragma omp parallel num_threads(threads)
    {
        float *q = malloc((size_t)(G * E + G * most + E + G * E) * sizeof(float));
        float *scores = q + G * E, *row = scores + G * most, *sum = row + E;
#pragma omp for schedule(static)
        for (i64 i = 0; i < T * K; i++) {
            i64 t = i / K, k = i % K, l = seats[t].place, to = ((layer * K + k) * seats[t].room + l) * E;
            load(row, qkv, t * X + (H + k) * E, E, half);
            turn(row, cos + l * E, sin + l * E, E, 1.0f);
            store(row, seats[t].keys, to, E, half);
            copy(qkv, t * X + (H + K + k) * E, seats[t].values, to, E, half);
        }
#pragma omp for schedule(dynamic, 1)
        for (i64 i = 0; i < T * K; i++) {
            i64 t = i / K, k = i % K, l = seats[t].place, from = (layer * K + k) * seats[t].room * E;
            i64 first = window && l >= window ? l - window + 1 : 0, n = l - first + 1;
            for (i64 g = 0; g < G; g++) {
                load(q + g * E, qkv, t * X + (k * G + g) * E, E, half);
                turn(q + g * E, cos + l * E, sin + l * E, E, 1.0f);
            }
            for (i64 j = 0; j < n; j++) {
                load(row, seats[t].keys, from + (first + j) * E, E, half);
                for (i64 g = 0; g < G; g++) {
                    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
                    for (i64 e = 0; e < E; e++) dot += q[g * E + e] * row[e];
                    scores[g * n + j] = dot;
                }
            }
            for (i64 g = 0; g < G; g++) softmax_row(scores + g * n, n, scale);
            memset(sum, 0, (size_t)(G * E) * sizeof(float));
            for (i64 j = 0; j < n; j++) {
                load(row, seats[t].values, from + (first + j) * E, E, half);
                for (i64 g = 0; g < G; g++) {
                    float part = scores[g * n + j];
#pragma omp simd
                    for (i64 e = 0; e < E; e++) sum[g * E + e] += part * row[e];
                }
            }
            store(sum, out, t * H * E + k * G * E, G * E, half);
        }
        free(q);
    }
}

// An adapter at layers with one input, joined: a (inner, I) holds the A of those it has, b (O, rank) the B of all, one below the
// other. at[n]: the first inner value of layer n, below 0 where the adapter has none there.
typedef struct { const void *a, *b; i64 inner, rank, at[3]; float scale; } pairs;

// y += scale x A^T B^T, each token with the pairs of its own; NULL is none. ends[n]: where the outputs of layer n end.
void add_low_rank(const void *x, void *y, const pairs *const *of, const i64 *ends, i64 layers, i64 T, i64 I, int half,
                  int threads) {
    i64 O = ends[layers - 1], most = 0;
    for (i64 t = 0; t < T; t++) most = of[t] && of[t]->inner > most ? of[t]->inner : most;
    if (!most) return;
    i64 blocks = (most + LOW_RANK_BLOCK - 1) / LOW_RANK_BLOCK, chunks = (O + LOW_RANK_CHUNK - 1) / LOW_RANK_CHUNK;
    float *h = malloc((size_t)(T * most) * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        float *in = malloc((size_t)(2 * I + most + LOW_RANK_CHUNK) * sizeof(float)), *row = in + I, *sum = row + I + most;
#pragma omp for schedule(static)
        for (i64 i = 0; i < T * blocks; i++) {
            const pairs *p = of[i / blocks];
            i64 t = i / blocks, first = (i % blocks) * LOW_RANK_BLOCK;
            if (!p || first >= p->inner) continue;
            load(in, x, t * I, I, half);
            for (i64 r = first; r < p->inner && r < first + LOW_RANK_BLOCK; r++) {
                load(row, p->a, r * I, I, half);
                float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
                for (i64 n = 0; n < I; n++) dot += in[n] * row[n];
                h[t * most + r] = dot * p->scale;
            }
        }
#pragma omp for schedule(static)
        for (i64 i = 0; i < T * chunks; i++) {
            i64 t = i / chunks, first = (i % chunks) * LOW_RANK_CHUNK, end = first + LOW_RANK_CHUNK < O ? first + LOW_RANK_CHUNK : O;
            const pairs *p = of[t];
            if (!p) continue;
            load(sum, y, t * O + first, end - first, half);
            for (i64 layer = 0; layer < layers; layer++) {
                i64 from = layer && ends[layer - 1] > first ? ends[layer - 1] : first, to = ends[layer] < end ? ends[layer] : end;
                if (p->at[layer] < 0) continue;
                const float *own = h + t * most + p->at[layer];
                for (i64 o = from; o < to; o++) {
                    load(row, p->b, o * p->rank, p->rank, half);
                    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
                    for (i64 r = 0; r < p->rank; r++) dot += own[r] * row[r];
                    sum[o - first] += dot;
                }
            }
            store(sum, y, t * O + first, end - first, half);
        }
        free(in);
    }
    free(h);
}

// y = x W^T of a few tokens in fp32. Each weight is read once, and reading them is what it takes.
void few_tokens(const float *x, const float *w, float *y, i64 T, i64 I, i64 O, int half, int threads) {
    (void)half;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 o = 0; o < O; o++)
        for (i64 t = 0; t < T; t++) {
            float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (i64 n = 0; n < I; n++) dot += x[t * I + n] * w[o * I + n];
            y[t * O + o] = dot;
        }
}
