// Causal attention of packed rows and its gradient, on a CPU: what `attend` computes with `document_bias`, without the
// tables of scores, and without the products that the mask would throw away. Compiled at first use; see
// fused_attention.py.
//
// A tile of queries meets all keys that any of them may see. The backward pass computes the weights again from the
// logarithms of their sums (Dao 2023, arXiv:2307.08691), for BAND queries at a time, and adds up the gradients of keys
// and values in fp32. A row's sums run in one order, whatever the number of threads.

#include "../base/compiled.h"

#include <memory>

struct Strided {  // (batch, head, token): where a row of head_dim elements begins
    void* first;
    long batch, head, token;
};

struct Attention {
    Strided queries, keys, values, out;
    const int32_t* spans;  // (batch, tokens, 3): query i sees keys [a, b) and [c, i]
    float* log_sums;       // (batch, n_heads, tokens)
    long n_batch, n_heads, n_kv_heads, tokens, head_dim;
    float scale;
};

struct Gradients {
    Strided out, queries, keys, values;
};

namespace {

constexpr long AHEAD = 16;  // rows to fetch before they are read: they lie too far apart for the processor to do so
constexpr long BAND = TILE_ROWS * 8;  // an even number

long up_to(long count, long unit) { return (count + unit - 1) / unit * unit; }

template <class T>
T* row_of(const Strided& rows, long batch, long head, long token) {
    return static_cast<T*>(rows.first) + batch * rows.batch + head * rows.head + token * rows.token;
}

template <class T>
void store_row(T* to, const float* from, long width) {
    long at = 0;
    for (; at + LANES <= width; at += LANES) store_elements(to + at, load_floats(from + at));
    for (; at < width; at++) store_element(to + at, from[at]);
}

// Elements of one row as words, or of two where those share words; nothing in place of the second if there is none.
Words joined(const float* one, const float*, bool) { return load<Words>(one); }

Words joined(const BFloat16* one, const BFloat16* other, bool two) {
    const Words low = widened(load<Halves>(one));
    return two ? low | (widened(load<Halves>(other)) << 16) : low;
}

template <class T>
using Elements = std::unique_ptr<T[]>;  // not set to zero first, as a vector's are

// A matrix (rows, width) as the right side of a product.
template <class T>
class Panels {
    std::vector<uint32_t> data;

   public:
    long words = 0;  // of a panel

    const uint32_t* panel(long index) const { return data.data() + index * words * PANEL; }

    // Its rows become columns; the depth is the width.
    void columns(const T* from, long stride, long rows, long width) {
        constexpr long ELEMENTS = Word<T>::ELEMENTS;
        words = width / ELEMENTS;
        data.assign(up_to(rows, PANEL) * words, 0);
        for (long row = 0; row < rows; row++) {
            fetch(from + std::min(row + AHEAD, rows - 1) * stride, width);
            uint32_t* to = data.data() + row / PANEL * words * PANEL + row % PANEL;
            for (long word = 0; word < words; word++) std::memcpy(to + word * PANEL, from + row * stride + word * ELEMENTS, 4);
        }
    }

    // Its columns stay columns; the depth is the rows, two of which share a word in bf16.
    void depth(const T* from, long stride, long rows, long width) {
        constexpr long ELEMENTS = Word<T>::ELEMENTS;
        words = up_to(rows, ELEMENTS) / ELEMENTS;
        data.assign(up_to(width, PANEL) * words, 0);
        for (long row = 0; row < rows; row += ELEMENTS) {
            for (long next = 0; next < ELEMENTS; next++) fetch(from + std::min(row + AHEAD + next, rows - 1) * stride, width);
            const T *low = from + row * stride, *high = row + 1 < rows ? low + stride : low;
            uint32_t* to = data.data() + row / ELEMENTS * PANEL;
            long column = 0;
            for (; column + LANES <= width; column += LANES)
                store(to + column / PANEL * words * PANEL + column % PANEL, joined(low + column, high + column, row + 1 < rows));
            for (; column < width; column++) {
                T pair[ELEMENTS] = {low[column]};
                if (ELEMENTS == 2 && row + 1 < rows) pair[ELEMENTS - 1] = high[column];
                std::memcpy(to + column / PANEL * words * PANEL + column % PANEL, pair, 4);
            }
        }
    }
};

// The part of one head that one thread works on.
template <class T>
class Head {
    const Attention& all;
    const long batch, head, width, depth_width;  // depth_width: of head_dim in whole panels
    const int32_t* spans;
    std::vector<float> scores, slopes;

   public:
    Head(const Attention& all, long batch, long head)
        : all(all),
          batch(batch),
          head(head),
          width(all.head_dim),
          depth_width(up_to(all.head_dim, PANEL)),
          spans(all.spans + batch * all.tokens * 3),
          scores(TILE_ROWS * padded()),
          slopes(TILE_ROWS * padded()) {}

    // Row length: of whole panels, and no power of two, whose rows would share few places of a cache.
    long padded() const { return up_to(all.tokens, PANEL) + PANEL; }

    T* row(const Strided& rows, long token, long of) const { return row_of<T>(rows, batch, of, token); }

    void fetch_rows(const Strided& rows, long first) const {  // a tile of them
        for (long token = first; token < std::min(first + TILE_ROWS, all.tokens); token++) fetch(row(rows, token, head), width);
    }

    // Where the keys of `rows` queries from `first` on begin, in whole panels.
    long first_key(long first, long rows) const {
        long key = all.tokens;
        for (long query = first; query < first + rows; query++) {
            const int32_t* span = spans + query * 3;
            key = std::min<long>(key, span[0] < span[1] ? std::min(span[0], span[2]) : span[2]);
        }
        return key / PANEL * PANEL;
    }

    // to(row, key) for all panels of keys [begin, end): rows of `left` times the keys' or values' columns.
    void over_keys(const Strided& left, long first, long rows, const Panels<T>& right, long begin, long end,
                   std::vector<float>& to) const {
        for (long key = begin; key < end; key += PANEL)
            multiply(rows, Left<T>{row(left, first, head), left.token}, right.panel(key / PANEL), right.words,
                     Sums{&to[key], padded()});
    }

    // Scores with -infinity where query `query` may not look.
    Floats masked(const float* from, long key, long query) const {
        const int32_t* span = spans + query * 3;
        const Floats x = load_floats(from) * all.scale;
        if (key >= span[2] && key + LANES <= query + 1) return x;
        const Ints at = lane_numbers() + int32_t(key);
        const Ints seen = ((at >= span[0]) & (at < span[1])) | ((at >= span[2]) & (at <= int32_t(query)));
        return seen ? x : all_of(-INFINITY);
    }

    void forward(const Panels<T>& keys, const Panels<T>& values) {
        const Elements<T> weights(new T[TILE_ROWS * padded()]);
        for (long first = 0; first < all.tokens; first += TILE_ROWS) {
            const long rows = std::min<long>(TILE_ROWS, all.tokens - first);
            const long begin = first_key(first, rows), end = up_to(first + rows, PANEL);
            fetch_rows(all.queries, first + rows);
            over_keys(all.queries, first, rows, keys, begin, end, scores);
            float shares[TILE_ROWS];
            for (long at = 0; at < rows; at++) {
                float* from = &scores[at * padded()];
                for (long key = begin; key < end; key += LANES) store(from + key, masked(from + key, key, first + at));
                const float highest = largest(from + begin, end - begin);
                const float sum = exponentials(from + begin, end - begin, highest);
                for (long key = begin; key < end; key += LANES)
                    store_elements(&weights[at * padded() + key], load_floats(from + key));
                shares[at] = 1.0f / sum;
                all.log_sums[(batch * all.n_heads + head) * all.tokens + first + at] = highest + std::log(sum);
            }
            const long skipped = begin / Word<T>::ELEMENTS;
            const long words = up_to(first + rows, Word<T>::ELEMENTS) / Word<T>::ELEMENTS - skipped;
            for (long column = 0; column < width; column += PANEL)
                multiply(rows, Left<T>{&weights[begin], padded()}, values.panel(column / PANEL) + skipped * PANEL, words,
                         [&](long at, Floats low, Floats high) {
                             write(row(all.out, first + at, head), column, low * shares[at], high * shares[at]);
                         });
        }
    }

    void write(T* to, long column, Floats low, Floats high) const {
        float both[PANEL];
        store(both, low);
        store(both + LANES, high);
        store_row(to + column, both, std::min<long>(PANEL, width - column));
    }

    // Adds to the gradients of keys and values, (padded tokens, depth_width) each, and writes that of the queries.
    void backward(const Gradients& gradients, const Panels<T>& keys, const Panels<T>& values, const Panels<T>& keys_deep,
                  std::vector<float>& keys_sum, std::vector<float>& values_sum) {
        constexpr long ELEMENTS = Word<T>::ELEMENTS;
        // Element (query, key) of a band: queries that share a word lie side by side.
        const Elements<T> weights(new T[BAND * padded()]), errors(new T[BAND * padded()]);
        const Elements<T> tile_errors(new T[TILE_ROWS * padded()]);
        Panels<T> out_deep, queries_deep;
        for (long band = 0; band < all.tokens; band += BAND) {
            const long queries = std::min(BAND, all.tokens - band);
            const long begin = first_key(band, queries), end = up_to(band + queries, PANEL);
            for (long query = 0; query < queries; query += ELEMENTS)
                for (T* band_row : {weights.get(), errors.get()})
                    std::memset(band_row + query * padded() + begin * ELEMENTS, 0, (end - begin) * ELEMENTS * sizeof(T));
            for (long first = band; first < band + queries; first += TILE_ROWS) {
                const long rows = std::min<long>(TILE_ROWS, band + queries - first);
                tile_backward(gradients, keys, values, first, rows, first - band, weights, errors, tile_errors);
                query_gradient(gradients, keys_deep, first, rows, tile_errors);
            }
            out_deep.depth(row(gradients.out, band, head), gradients.out.token, queries, width);
            queries_deep.depth(row(all.queries, band, head), all.queries.token, queries, width);
            const long words = up_to(queries, ELEMENTS) / ELEMENTS;
            add_columns(weights, out_deep, begin, end, words, values_sum);
            add_columns(errors, queries_deep, begin, end, words, keys_sum);
        }
    }

   private:
    // sums[key] += sum over the band's queries of band(query, key) * right(query).
    void add_columns(const Elements<T>& band, const Panels<T>& right, long begin, long end, long words,
                     std::vector<float>& sums) const {
        constexpr long ELEMENTS = Word<T>::ELEMENTS;
        const Left<T> left{&band[begin * ELEMENTS], ELEMENTS, padded() * ELEMENTS};
        for (long column = 0; column < width; column += PANEL)
            multiply(std::min(end, all.tokens) - begin, left, right.panel(column / PANEL), words,
                     Sums{&sums[begin * depth_width + column], depth_width}, true);
    }

    // The weights and the gradients of the scores of a tile of queries: into the band, and the latter also by rows.
    void tile_backward(const Gradients& gradients, const Panels<T>& keys, const Panels<T>& values, long first, long rows,
                       long offset, const Elements<T>& weights, const Elements<T>& errors, const Elements<T>& tile_errors) {
        const long begin = first_key(first, rows), end = up_to(first + rows, PANEL);
        fetch_rows(all.out, first + rows);
        float means[TILE_ROWS];
        for (long at = 0; at < rows; at++)
            means[at] = sum_of_products(row(all.out, first + at, head), row(gradients.out, first + at, head), width);
        fetch_rows(all.queries, first + rows);
        fetch_rows(gradients.out, first + rows);
        over_keys(all.queries, first, rows, keys, begin, end, scores);
        over_keys(gradients.out, first, rows, values, begin, end, slopes);
        for (long at = 0; at < rows; at++) {
            const long query = first + at;
            const float log_sum = all.log_sums[(batch * all.n_heads + head) * all.tokens + query];
            float *share = &scores[at * padded()], *error = &slopes[at * padded()];
            for (long key = begin; key < end; key += LANES) {
                const Floats weight = exponential(masked(share + key, key, query) - log_sum);
                store(share + key, weight);
                store(error + key, weight * (load_floats(error + key) - means[at]) * all.scale);
                store_elements(&tile_errors[at * padded() + key], load_floats(error + key));
            }
        }
        for (long at = 0; at < rows; at += Word<T>::ELEMENTS) {
            put(&scores[at * padded()], at + 1 < rows, begin, end, offset + at, weights);
            put(&slopes[at * padded()], at + 1 < rows, begin, end, offset + at, errors);
        }
    }

    // One row into the band, or two that share words; the second is nothing where the queries are an odd number.
    void put(const float* from, bool two, long begin, long end, long offset, const Elements<T>& band) const {
        constexpr long ELEMENTS = Word<T>::ELEMENTS;
        T* to = &band[offset * padded()];
        for (long key = begin; key < end; key += LANES) {
            const Floats rows[] = {load_floats(from + key), two ? load_floats(from + padded() + key) : Floats{}};
            store(to + key * ELEMENTS, Word<T>::words(rows));
        }
    }

    void query_gradient(const Gradients& gradients, const Panels<T>& keys_deep, long first, long rows,
                        const Elements<T>& tile_errors) const {
        const long begin = first_key(first, rows), skipped = begin / Word<T>::ELEMENTS;
        const long words = up_to(first + rows, Word<T>::ELEMENTS) / Word<T>::ELEMENTS - skipped;
        for (long column = 0; column < width; column += PANEL)
            multiply(rows, Left<T>{&tile_errors[begin], padded()}, keys_deep.panel(column / PANEL) + skipped * PANEL,
                     words, [&](long at, Floats low, Floats high) {
                         write(row(gradients.queries, first + at, head), column, low, high);
                     });
    }
};

template <class T>
void forward(const Attention& all, int threads) {
    const long groups = all.n_heads / all.n_kv_heads;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(dynamic)
    for (long batch = 0; batch < all.n_batch; batch++)
        for (long kv_head = 0; kv_head < all.n_kv_heads; kv_head++) {
            Panels<T> keys, values;
            keys.columns(row_of<T>(all.keys, batch, kv_head, 0), all.keys.token, all.tokens, all.head_dim);
            values.depth(row_of<T>(all.values, batch, kv_head, 0), all.values.token, all.tokens, all.head_dim);
            for (long head = kv_head * groups; head < (kv_head + 1) * groups; head++)
                Head<T>(all, batch, head).forward(keys, values);
        }
}

template <class T>
void backward(const Attention& all, const Gradients& gradients, int threads) {
    const long groups = all.n_heads / all.n_kv_heads, width = up_to(all.head_dim, PANEL);
#pragma omp parallel for collapse(2) num_threads(threads) schedule(dynamic)
    for (long batch = 0; batch < all.n_batch; batch++)
        for (long kv_head = 0; kv_head < all.n_kv_heads; kv_head++) {
            Panels<T> keys, values, keys_deep;
            const T* first_key = row_of<T>(all.keys, batch, kv_head, 0);
            keys.columns(first_key, all.keys.token, all.tokens, all.head_dim);
            keys_deep.depth(first_key, all.keys.token, all.tokens, all.head_dim);
            values.columns(row_of<T>(all.values, batch, kv_head, 0), all.values.token, all.tokens, all.head_dim);
            std::vector<float> keys_sum(all.tokens * width), values_sum(all.tokens * width);
            for (long head = kv_head * groups; head < (kv_head + 1) * groups; head++)
                Head<T>(all, batch, head).backward(gradients, keys, values, keys_deep, keys_sum, values_sum);
            for (long token = 0; token < all.tokens; token++) {
                store_row(row_of<T>(gradients.keys, batch, kv_head, token), &keys_sum[token * width], all.head_dim);
                store_row(row_of<T>(gradients.values, batch, kv_head, token), &values_sum[token * width], all.head_dim);
            }
        }
}

}  // namespace

extern "C" {

void trivium_attention(const Attention* all, int bf16, int threads) {
    bf16 ? forward<BFloat16>(*all, threads) : forward<float>(*all, threads);
}

void trivium_attention_gradient(const Attention* all, const Gradients* gradients, int bf16, int threads) {
    bf16 ? backward<BFloat16>(*all, *gradients, threads) : backward<float>(*all, *gradients, threads);
}
}
