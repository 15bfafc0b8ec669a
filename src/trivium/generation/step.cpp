// One pass of a decoder over single tokens of many sequences, on a CPU: what `Decoder.hidden` and `logits` compute with
// a key/value cache, without a gradient. Compiled for the machine at first use; see step.py.
//
// A token's figures are sums in a fixed order over its own sequence, so they are the same bits whatever else is in the
// pass and however many threads there are. Matrices are read in panels: PANEL columns of the result side by side, along
// the depth. Products are of elements (fp32 or bf16) and summed in fp32, as are the residual stream, norms and softmax.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, TILE_ROWS = 12;  // 24 sums, two columns and a row's element fill 32 registers
#else
constexpr int LANES = 8, TILE_ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;
constexpr int CHUNK = 96;  // rows whose elements stay in a core's cache while a panel passes

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

struct BFloat16 {
    uint16_t bits;
};

template <class Vector>
Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Vector>
void store(void* to, Vector vector) {
    std::memcpy(to, &vector, sizeof vector);
}

Floats all(float value) { return Floats{} + value; }

Floats as_floats(Words words) { return (Floats)words; }

Floats load_floats(const float* from) { return load<Floats>(from); }

Floats load_floats(const BFloat16* from) { return as_floats(__builtin_convertvector(load<Halves>(from), Words) << 16); }

Words rounded(Words bits) { return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; }  // to the nearest, ties to even

void store_elements(float* to, Floats values) { store(to, values); }

void store_elements(BFloat16* to, Floats values) {
    store(to, __builtin_convertvector(rounded((Words)values), Halves));
}

void store_element(float* to, float value) { *to = value; }

void store_element(BFloat16* to, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    to->bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

float element(float value) { return value; }

float element(BFloat16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

float total(Floats values) {
    float lanes[LANES];
    std::memcpy(lanes, &values, sizeof values);
#pragma GCC unroll 4
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

// A word is one fp32 element or a pair of bf16 ones. sums += left * right, a pair's two products one after the other.
template <class T>
struct Word;

template <>
struct Word<float> {
    static constexpr int ELEMENTS = 1;
    static Floats add(Floats sums, Words left, Words right) { return sums + as_floats(left) * as_floats(right); }
};

template <>
struct Word<BFloat16> {
    static constexpr int ELEMENTS = 2;
    static Floats add(Floats sums, Words left, Words right) {
#ifdef __AVX512BF16__
        return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)left, (__m512bh)right);
#else
        sums += as_floats(left << 16) * as_floats(right << 16);
        return sums + as_floats(left & 0xffff0000) * as_floats(right & 0xffff0000);
#endif
    }
};

Floats exponential(Floats x) {  // Cody and Waite's reduction, then a polynomial; 2 units in the last place
    const Floats low = x < -87.0f ? all(-87.0f) : x, in_range = low > 88.0f ? all(88.0f) : low;
    const Floats shifted = in_range * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
    const Floats rest = in_range - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats sum = rest * 1.9875691e-4f + 1.3981999e-3f;
    sum = sum * rest + 8.3334519e-3f;
    sum = sum * rest + 4.1665796e-2f;
    sum = sum * rest + 1.6666666e-1f;
    sum = sum * rest + 5.0000001e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const Floats raised = as_floats((Words)sum + ((Words)shifted << 23));
    return x < -87.0f ? all(0.0f) : raised;
}

float sum_of_squares(const float* from, long width) {
    Floats squares = {};
    long at = 0;
    for (; at + LANES <= width; at += LANES) squares += load_floats(from + at) * load_floats(from + at);
    float sum = total(squares);
    for (; at < width; at++) sum += from[at] * from[at];
    return sum;
}

float largest(const float* from, long count) {
    Floats most = all(-INFINITY);
    long at = 0;
    for (; at + LANES <= count; at += LANES) {
        const Floats x = load_floats(from + at);
        most = x > most ? x : most;
    }
    float found = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) found = std::max(found, most[lane]);
    for (; at < count; at++) found = std::max(found, from[at]);
    return found;
}

// x -> exp(x - highest), zeros up to the end of the last vector, for which there must be room. Returns the sum.
float exponentials(float* x, long count, float highest) {
    Floats sums = {};
    long at = 0;
    for (; at + LANES <= count; at += LANES) {
        const Floats raised = exponential(load_floats(x + at) - highest);
        store(x + at, raised);
        sums += raised;
    }
    if (at < count) {
        Floats raised = exponential(load_floats(x + at) - highest);
        for (int lane = count - at; lane < LANES; lane++) raised[lane] = 0;
        store(x + at, raised);
        sums += raised;
    }
    return total(sums);
}

template <int ROWS, class T, class Store>
void tile(const T* rows, long stride, const uint32_t* panel, long words, const Store& result) {
    Floats sums[ROWS][2] = {};
    for (long word = 0; word < words; word++, panel += PANEL) {
        const Words left = load<Words>(panel), right = load<Words>(panel + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            uint32_t pair;
            std::memcpy(&pair, rows + row * stride + word * Word<T>::ELEMENTS, 4);
            const Words value = Words{} + pair;
            sums[row][0] = Word<T>::add(sums[row][0], left, value);
            sums[row][1] = Word<T>::add(sums[row][1], right, value);
        }
    }
    for (int row = 0; row < ROWS; row++) result(row, sums[row][0], sums[row][1]);
}

template <int ROWS, class T, class Store>
void tiles(long rows, const T* first, long stride, const uint32_t* panel, long words, const Store& result) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            tile<ROWS>(first, stride, panel, words, result);
        else
            tiles<ROWS - 1>(rows, first, stride, panel, words, result);
    }
}

}  // namespace

struct Matrix {
    const uint32_t* panels;
    long words, columns;  // columns: of the result, without the last panel's empty ones
};

struct Layer {
    Matrix queries_keys_values, out, gate_up, down;  // gate_up: LANES columns of either by turns
    const float *attention_norm, *feed_forward_norm, *bias, *query_norm, *key_norm;  // the last three may be null
};

struct Model {
    const Layer* layers;
    Matrix head;
    const float *norm, *cos, *sin;  // cos, sin: (positions, head_dim / 2)
    long n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff;
    float eps;
};

struct Cache {
    void *keys, *values;  // (layers, rows, heads, capacity, head_dim) elements
    long rows, capacity;
};

struct Tokens {
    const float* embedded;  // (count, d_model)
    const int64_t *rows, *positions;
    const int64_t* wanted;  // indices of the tokens whose logits are asked for
    long count, n_wanted;
};

namespace {

template <class T>
class Pass {
    const Model& model;
    const Cache& cache;
    const Tokens& tokens;
    const long heads_width, projected_width, normed_width, mixed_width, hidden_width;
    std::vector<float> stream, projected;
    std::vector<T> normed, mixed, hidden, queries;

    static long even(long width) { return (width + 1) / 2 * 2; }  // elements of bf16 come in pairs

   public:
    Pass(const Model& model, const Cache& cache, const Tokens& tokens)
        : model(model),
          cache(cache),
          tokens(tokens),
          heads_width(model.n_heads * model.head_dim),
          projected_width((model.n_heads + 2 * model.n_kv_heads) * model.head_dim),
          normed_width(even(model.d_model)),
          mixed_width(even(heads_width)),
          hidden_width(even((model.d_ff + LANES - 1) / LANES * LANES)),
          stream(tokens.embedded, tokens.embedded + tokens.count * model.d_model),
          projected(tokens.count * projected_width),
          normed(tokens.count * normed_width),
          mixed(tokens.count * mixed_width),
          hidden(tokens.count * hidden_width),
          queries(tokens.count * heads_width) {}

    void run(float* logits, int threads) {
#pragma omp parallel num_threads(threads)
        {
            for (long number = 0; number < model.n_layers; number++) {
                const Layer& layer = model.layers[number];
                norm_rows(layer.attention_norm);
                project(layer);
                place(layer, number);
                attend(number);
                add_product(mixed.data(), mixed_width, layer.out);
                norm_rows(layer.feed_forward_norm);
                gate(layer.gate_up);
                add_product(hidden.data(), hidden_width, layer.down);
            }
            choose();
            write_logits(logits);
        }
    }

   private:
    // The methods below are run by all threads together; each ends when all are done.

    template <class Store>
    void multiply(const T* rows, long count, long stride, const Matrix& matrix, const Store& result) {
        const long panels = (matrix.columns + PANEL - 1) / PANEL, chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp for collapse(2) schedule(static)
        for (long chunk = 0; chunk < chunks; chunk++)
            for (long panel = 0; panel < panels; panel++) {
                const uint32_t* columns = matrix.panels + panel * matrix.words * PANEL;
                const long end = std::min(count, (chunk + 1) * CHUNK);
                for (long row = chunk * CHUNK; row < end; row += TILE_ROWS)
                    tiles<TILE_ROWS>(std::min<long>(TILE_ROWS, end - row), rows + row * stride, stride, columns,
                                     matrix.words, [&](int offset, Floats left, Floats right) {
                                         result(row + offset, panel * PANEL, left, right);
                                     });
            }
    }

    static void norm(const float* from, const float* weight, long width, float eps, T* to) {
        const float scale = 1.0f / std::sqrt(sum_of_squares(from, width) / width + eps);
        long at = 0;
        for (; at + LANES <= width; at += LANES)
            store_elements(to + at, load_floats(from + at) * scale * load_floats(weight + at));
        for (; at < width; at++) store_element(to + at, from[at] * scale * weight[at]);
    }

    void norm_rows(const float* weight) {
#pragma omp for schedule(static)
        for (long row = 0; row < tokens.count; row++)
            norm(&stream[row * model.d_model], weight, model.d_model, model.eps, &normed[row * normed_width]);
    }

    // Writes the columns of a panel that are there.
    template <class Write>
    static void columns(long first, long end, Floats left, Floats right, const Write& write) {
        float both[PANEL];
        store(both, left);
        store(both + LANES, right);
        for (long column = first; column < std::min(first + PANEL, end); column++) write(column, both[column - first]);
    }

    void project(const Layer& layer) {
        const Matrix& matrix = layer.queries_keys_values;
        multiply(normed.data(), tokens.count, normed_width, matrix, [&](long row, long first, Floats left, Floats right) {
            float* to = &projected[row * projected_width];
            columns(first, matrix.columns, left, right,
                    [&](long column, float sum) { to[column] = layer.bias ? sum + layer.bias[column] : sum; });
        });
    }

    void add_product(const T* rows, long stride, const Matrix& matrix) {
        multiply(rows, tokens.count, stride, matrix, [&](long row, long first, Floats left, Floats right) {
            float* to = &stream[row * model.d_model];
            if (first + PANEL <= matrix.columns) {
                store(to + first, load_floats(to + first) + left);
                store(to + first + LANES, load_floats(to + first + LANES) + right);
            } else
                columns(first, matrix.columns, left, right, [&](long column, float sum) { to[column] += sum; });
        });
    }

    void gate(const Matrix& matrix) {
        multiply(normed.data(), tokens.count, normed_width, matrix, [&](long row, long first, Floats left, Floats right) {
            store_elements(&hidden[row * hidden_width + first / 2], left / (1.0f + exponential(-left)) * right);
        });
    }

    T* slot(void* kept, long layer, long row, long head, long position) const {
        const long index = ((layer * cache.rows + row) * model.n_kv_heads + head) * cache.capacity + position;
        return static_cast<T*>(kept) + index * model.head_dim;
    }

    // Normalises one head if the model does, and turns it by its position's angle.
    void turn(const float* from, const float* weight, long position, float scale, T* to) const {
        const long half = model.head_dim / 2;
        float factor = scale;
        if (weight) factor /= std::sqrt(sum_of_squares(from, model.head_dim) / model.head_dim + model.eps);
        const float *cos = model.cos + position * half, *sin = model.sin + position * half;
        for (long at = 0; at < half; at++) {
            const float first = from[at] * factor * (weight ? weight[at] : 1.0f);
            const float second = from[at + half] * factor * (weight ? weight[at + half] : 1.0f);
            store_element(to + at, first * cos[at] - second * sin[at]);
            store_element(to + at + half, second * cos[at] + first * sin[at]);
        }
    }

    void place(const Layer& layer, long number) {
        const float scale = 1.0f / std::sqrt(float(model.head_dim));
        const long heads = model.n_heads + 2 * model.n_kv_heads, width = model.head_dim;
#pragma omp for collapse(2) schedule(static)
        for (long token = 0; token < tokens.count; token++)
            for (long head = 0; head < heads; head++) {
                const float* from = &projected[token * projected_width + head * width];
                const long row = tokens.rows[token], position = tokens.positions[token], key = head - model.n_heads;
                if (key < 0)
                    turn(from, layer.query_norm, position, scale, &queries[token * heads_width + head * width]);
                else if (key < model.n_kv_heads)
                    turn(from, layer.key_norm, position, 1.0f, slot(cache.keys, number, row, key, position));
                else {
                    T* to = slot(cache.values, number, row, key - model.n_kv_heads, position);
                    for (long at = 0; at < width; at++) store_element(to + at, from[at]);
                }
            }
    }

    float product(const T* query, const T* key) const {
        constexpr int STEP = LANES * Word<T>::ELEMENTS;
        Floats sums = {};
        long at = 0;
        for (; at + STEP <= model.head_dim; at += STEP)
            sums = Word<T>::add(sums, load<Words>(query + at), load<Words>(key + at));
        float sum = total(sums);
        for (; at < model.head_dim; at++) sum += element(query[at]) * element(key[at]);
        return sum;
    }

    void attend(long number) {
        const long groups = model.n_heads / model.n_kv_heads;
        std::vector<float> scores(cache.capacity + LANES), sums(model.head_dim);
#pragma omp for collapse(2) schedule(static)
        for (long token = 0; token < tokens.count; token++)
            for (long head = 0; head < model.n_heads; head++) {
                const long row = tokens.rows[token], count = tokens.positions[token] + 1, width = model.head_dim;
                const T* query = &queries[token * heads_width + head * width];
                const T* keys = slot(cache.keys, number, row, head / groups, 0);
                const T* values = slot(cache.values, number, row, head / groups, 0);
                for (long at = 0; at < count; at++) scores[at] = product(query, keys + at * width);
                const float scale = 1.0f / exponentials(scores.data(), count, largest(scores.data(), count));
                mix(scores.data(), values, count, scale, &mixed[token * mixed_width + head * width]);
            }
    }

    // to = scale * sum of weights[i] * values[i], a strip of the width at a time.
    void mix(const float* weights, const T* values, long count, float scale, T* to) const {
        const long width = model.head_dim;
        long at = 0;
        for (; at + 4 * LANES <= width; at += 4 * LANES) strip<4>(weights, values + at, count, scale, to + at);
        for (; at + LANES <= width; at += LANES) strip<1>(weights, values + at, count, scale, to + at);
        for (; at < width; at++) {
            float sum = 0;
            for (long slot = 0; slot < count; slot++) sum += weights[slot] * element(values[slot * width + at]);
            store_element(to + at, sum * scale);
        }
    }

    template <int VECTORS>
    void strip(const float* weights, const T* values, long count, float scale, T* to) const {
        Floats sums[VECTORS] = {};
        for (long slot = 0; slot < count; slot++, values += model.head_dim)
            for (int part = 0; part < VECTORS; part++)
                sums[part] += weights[slot] * load_floats(values + part * LANES);
        for (int part = 0; part < VECTORS; part++) store_elements(to + part * LANES, sums[part] * scale);
    }

    void choose() {  // the wanted tokens' last norm, to the front
#pragma omp for schedule(static)
        for (long index = 0; index < tokens.n_wanted; index++)
            norm(&stream[tokens.wanted[index] * model.d_model], model.norm, model.d_model, model.eps,
                 &normed[index * normed_width]);
    }

    void write_logits(float* logits) {
        const Matrix& head = model.head;
        multiply(normed.data(), tokens.n_wanted, normed_width, head, [&](long row, long first, Floats left, Floats right) {
            float* to = logits + row * head.columns;
            if (first + PANEL <= head.columns) {
                store(to + first, left);
                store(to + first + LANES, right);
            } else
                columns(first, head.columns, left, right, [&](long column, float sum) { to[column] = sum; });
        });
    }
};

constexpr long BLOCK = 64;

// The first id whose cumulative share exceeds the uniform number's part of all; found among blocks of ids first. Where
// rounding leaves none, the last that has a share; `otherwise` where the last block has no share at all.
long inverse(const std::vector<float>& shares, std::vector<float>& sums, float uniform, long otherwise) {
    float all_shares = 0;
    for (size_t block = 0; block < sums.size(); block++) {
        Floats parts = {};
        for (long at = 0; at < BLOCK; at += LANES) parts += load_floats(&shares[block * BLOCK + at]);
        all_shares += sums[block] = total(parts);
    }
    float rest = uniform * all_shares;
    size_t block = 0;
    for (; block + 1 < sums.size() && rest >= sums[block]; block++) rest -= sums[block];
    long chosen = otherwise;
    for (size_t at = block * BLOCK; at < std::min<size_t>((block + 1) * BLOCK, shares.size()); at++) {
        if (shares[at] > 0) chosen = at;
        if (rest < shares[at]) break;
        rest -= shares[at];
    }
    return chosen;
}

}  // namespace

extern "C" {

int trivium_lanes() { return LANES; }

// Rows of a (rows, words) matrix, become columns of panels: row i goes to column first + i / run * gap + i % run.
void trivium_pack(const uint32_t* source, long rows, long words, long first, long run, long gap, uint32_t* panels,
                  int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long group = 0; group < (rows + LANES - 1) / LANES; group++) {
        const long begin = group * LANES, count = std::min<long>(LANES, rows - begin);
        uint32_t* to[LANES];
        for (long row = 0; row < count; row++) {
            const long column = first + (begin + row) / run * gap + (begin + row) % run;
            to[row] = panels + column / PANEL * words * PANEL + column % PANEL;
        }
        for (long word = 0; word < words; word++)
            for (long row = 0; row < count; row++) to[row][word * PANEL] = source[(begin + row) * words + word];
    }
}

// What `sampling.sample_tokens` does: (count, width) logits and a uniform number a row to ids and log-probabilities.
void trivium_sample(const float* logits, const float* uniforms, long count, long width, float temperature, int64_t* ids,
                    float* logprobs, int threads) {
#pragma omp parallel num_threads(threads)
    {
        const long blocks = (width + BLOCK - 1) / BLOCK;
        std::vector<float> shares(blocks * BLOCK), sums(blocks);
#pragma omp for schedule(static)
        for (long row = 0; row < count; row++) {
            const float* from = logits + row * width;
            for (long at = 0; at < width; at++) shares[at] = temperature > 0 ? from[at] / temperature : from[at];
            const float highest = largest(shares.data(), width);
            const long likeliest = std::find(shares.begin(), shares.begin() + width, highest) - shares.begin();
            const float sum = exponentials(shares.data(), width, highest);
            long chosen = likeliest % width;  // numbers that are none have no largest
            if (temperature > 0) chosen = inverse(shares, sums, uniforms[row], chosen);
            ids[row] = chosen;
            logprobs[row] = std::log(shares[chosen] / sum);
        }
    }
}

// Stores the tokens' keys and values in the cache; logits: (n_wanted, vocabulary).
void trivium_step(const Model* model, const Cache* cache, const Tokens* tokens, int bf16, float* logits, int threads) {
    if (bf16)
        Pass<BFloat16>(*model, *cache, *tokens).run(logits, threads);
    else
        Pass<float>(*model, *cache, *tokens).run(logits, threads);
}
}
