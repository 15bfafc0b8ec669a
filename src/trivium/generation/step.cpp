// One pass of a decoder over single tokens of many sequences, on a CPU: what `Decoder.hidden` and `logits` compute with
// a key/value cache, without a gradient. Compiled for the machine at first use; see step.py.
//
// A token's figures are sums in a fixed order over its own sequence, so they are the same bits whatever else is in the
// pass and however many threads there are. Products are of elements (fp32 or bf16) and summed in fp32, as are the
// residual stream, norms and softmax.

#include "../base/compiled.h"

#include <numeric>

constexpr long CHUNK = 96;  // rows whose elements stay in a core's cache while a panel passes

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
    std::vector<float> stream, projected, last_stream;
    std::vector<T> normed, mixed, hidden, queries;
    std::vector<int64_t> asking;  // the tokens whose rows of the stream are computed: all, in the last layer the wanted
    float* rows;                  // of the stream, one for each of them
    long count;

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
          last_stream(tokens.n_wanted * model.d_model),
          normed(tokens.count * normed_width),
          mixed(tokens.count * mixed_width),
          hidden(tokens.count * hidden_width),
          queries(tokens.count * heads_width),
          asking(tokens.count),
          rows(stream.data()),
          count(tokens.count) {
        std::iota(asking.begin(), asking.end(), 0);
    }

    void run(float* logits, int threads) {
#pragma omp parallel num_threads(threads)
        {
            for (long number = 0; number < model.n_layers; number++) {
                const Layer& layer = model.layers[number];
                norm_rows(layer.attention_norm);
                project(layer);
                place(layer, number);
                if (number + 1 == model.n_layers) choose();
                attend(number);
                add_product(mixed.data(), mixed_width, layer.out);
                norm_rows(layer.feed_forward_norm);
                gate(layer.gate_up);
                add_product(hidden.data(), hidden_width, layer.down);
            }
            norm_rows(model.norm);
            write_logits(logits);
        }
    }

   private:
    // The methods below are run by all threads together; each ends when all are done.

    template <class Store>
    void product_of(const T* factors, long stride, const Matrix& matrix, const Store& result) {
        const long panels = (matrix.columns + PANEL - 1) / PANEL, chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp for collapse(2) schedule(static)
        for (long chunk = 0; chunk < chunks; chunk++)
            for (long panel = 0; panel < panels; panel++) {
                const long begin = chunk * CHUNK;
                multiply(std::min(CHUNK, count - begin), Left<T>{factors + begin * stride, stride},
                         matrix.panels + panel * matrix.words * PANEL, matrix.words,
                         [&](long row, Floats left, Floats right) { result(begin + row, panel * PANEL, left, right); });
            }
    }

    static void norm(const float* from, const float* weight, long width, float eps, T* to) {
        const float scale = 1.0f / std::sqrt(sum_of_products(from, from, width) / width + eps);
        long at = 0;
        for (; at + LANES <= width; at += LANES)
            store_elements(to + at, load_floats(from + at) * scale * load_floats(weight + at));
        for (; at < width; at++) store_element(to + at, from[at] * scale * weight[at]);
    }

    void norm_rows(const float* weight) {
#pragma omp for schedule(static)
        for (long row = 0; row < count; row++)
            norm(rows + row * model.d_model, weight, model.d_model, model.eps, &normed[row * normed_width]);
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
        product_of(normed.data(), normed_width, matrix, [&](long row, long first, Floats left, Floats right) {
            float* to = &projected[row * projected_width];
            columns(first, matrix.columns, left, right,
                    [&](long column, float sum) { to[column] = layer.bias ? sum + layer.bias[column] : sum; });
        });
    }

    void add_product(const T* factors, long stride, const Matrix& matrix) {
        product_of(factors, stride, matrix, [&](long row, long first, Floats left, Floats right) {
            float* to = rows + row * model.d_model;
            if (first + PANEL <= matrix.columns) {
                store(to + first, load_floats(to + first) + left);
                store(to + first + LANES, load_floats(to + first + LANES) + right);
            } else
                columns(first, matrix.columns, left, right, [&](long column, float sum) { to[column] += sum; });
        });
    }

    void gate(const Matrix& matrix) {
        product_of(normed.data(), normed_width, matrix, [&](long row, long first, Floats left, Floats right) {
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
        if (weight) factor /= std::sqrt(sum_of_products(from, from, model.head_dim) / model.head_dim + model.eps);
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
        for (long index = 0; index < count; index++)
            for (long head = 0; head < model.n_heads; head++) {
                const long token = asking[index], row = tokens.rows[token], width = model.head_dim;
                const long seen = tokens.positions[token] + 1;
                const T* query = &queries[token * heads_width + head * width];
                const T* keys = slot(cache.keys, number, row, head / groups, 0);
                const T* values = slot(cache.values, number, row, head / groups, 0);
                for (long at = 0; at < seen; at++) {
                    fetch(values + at * width, width);
                    scores[at] = product(query, keys + at * width);
                }
                const float scale = 1.0f / exponentials(scores.data(), seen, largest(scores.data(), seen));
                mix(scores.data(), values, seen, scale, &mixed[index * mixed_width + head * width]);
            }
    }

    // to = scale * sum of weights[i] * values[i], a strip of the width at a time.
    void mix(const float* weights, const T* values, long count, float scale, T* to) const {
        const long width = model.head_dim;
        long at = 0;
        constexpr int STEP = LANES * Word<T>::ELEMENTS, WIDE = 4 / Word<T>::ELEMENTS;
        for (; at + WIDE * STEP <= width; at += WIDE * STEP) strip<WIDE>(weights, values + at, count, scale, to + at);
        for (; at + STEP <= width; at += STEP) strip<1>(weights, values + at, count, scale, to + at);
        for (; at < width; at++) {
            float sum = 0;
            for (long slot = 0; slot < count; slot++) sum += weights[slot] * element(values[slot * width + at]);
            store_element(to + at, sum * scale);
        }
    }

    template <int VECTORS>
    void strip(const float* weights, const T* values, long count, float scale, T* to) const {
        constexpr int ELEMENTS = Word<T>::ELEMENTS;
        Floats sums[VECTORS][ELEMENTS] = {};
        for (long slot = 0; slot < count; slot++, values += model.head_dim)
            for (int part = 0; part < VECTORS; part++) {
                const Words words = load<Words>(values + part * LANES * ELEMENTS);
                for (int which = 0; which < ELEMENTS; which++)
                    sums[part][which] += weights[slot] * Word<T>::element(words, which);
            }
        for (int part = 0; part < VECTORS; part++) {
            for (Floats& sum : sums[part]) sum *= scale;
            store(to + part * LANES * ELEMENTS, Word<T>::words(sums[part]));
        }
    }

    void choose() {  // what is left of the pass is for the wanted tokens alone: the others' keys and values are placed
#pragma omp for schedule(static)
        for (long index = 0; index < tokens.n_wanted; index++)
            std::copy_n(&stream[tokens.wanted[index] * model.d_model], model.d_model, &last_stream[index * model.d_model]);
#pragma omp single
        {
            asking.assign(tokens.wanted, tokens.wanted + tokens.n_wanted);
            rows = last_stream.data();
            count = tokens.n_wanted;
        }
    }

    void write_logits(float* logits) {
        const Matrix& head = model.head;
        product_of(normed.data(), normed_width, head, [&](long row, long first, Floats left, Floats right) {
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
