// RMSNorm, the gate of SwiGLU and the rotation of queries and keys on a CPU, forwards and backwards: one visit to each
// element where PyTorch's operations make four to eight. Compiled at first use; see fused_layers.py.
//
// A row's sums run in one order. The gradient of a norm's weight is summed over blocks of rows of one size, then over
// the blocks, so it does not depend on the number of threads.

#include "../base/compiled.h"

struct Norm {
    const void *x, *weight, *grad;  // (rows, width), (width,), (rows, width)
    void* out;                      // (rows, width): the result, or the gradient of x
    float *scales, *weight_grad;    // (rows,), (width,)
    long rows, width;
    float eps;
};

struct Gate {
    const void *gate, *up, *grad;
    void *out, *up_grad;  // the result, or the gradients of gate and up
    long count;
};

struct Rotation {
    const void *x, *cos, *sin;  // (tokens, heads, 2 * half), (tables, half), (tables, half)
    void* out;
    long tokens, heads, half, tables;  // token i has the angles of row i % tables
    float direction;                   // 1, or -1 to turn back
};

namespace {

constexpr long BLOCK = 128;  // rows whose share of the weight's gradient is summed at once

template <class T>
Floats load_some(const T* from, long count) {
    if (count >= LANES) return load_floats(from);
    Floats values = {};
    for (long lane = 0; lane < count; lane++) values[lane] = element(from[lane]);
    return values;
}

template <class T>
void store_some(T* to, Floats values, long count) {
    if (count >= LANES) return store_elements(to, values);
    for (long lane = 0; lane < count; lane++) store_element(to + lane, values[lane]);
}

template <class T>
void norm(const Norm& all, int threads) {
    const T* weight = static_cast<const T*>(all.weight);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < all.rows; row++) {
        const T* x = static_cast<const T*>(all.x) + row * all.width;
        T* out = static_cast<T*>(all.out) + row * all.width;
        const float scale = 1.0f / std::sqrt(sum_of_products(x, x, all.width) / all.width + all.eps);
        for (long at = 0; at < all.width; at += LANES) {
            const long rest = all.width - at;
            store_some(out + at, load_some(x + at, rest) * scale * load_some(weight + at, rest), rest);
        }
        all.scales[row] = scale;
    }
}

// The gradient of a row of x; what the row adds to that of the weight goes to `sums`.
template <class T>
void norm_row_gradient(const Norm& all, long row, float* sums) {
    const T *weight = static_cast<const T*>(all.weight), *x = static_cast<const T*>(all.x) + row * all.width;
    const T* grad = static_cast<const T*>(all.grad) + row * all.width;
    T* out = static_cast<T*>(all.out) + row * all.width;
    const float scale = all.scales[row];
    Floats products = {};
    for (long at = 0; at < all.width; at += LANES) {
        const long rest = all.width - at;
        const Floats product = load_some(grad + at, rest) * load_some(x + at, rest) * scale;
        products += product * load_some(weight + at, rest);
        store(sums + at, load_floats(sums + at) + product);
    }
    const float mean = total(products) / all.width;
    for (long at = 0; at < all.width; at += LANES) {
        const long rest = all.width - at;
        const Floats slope = load_some(grad + at, rest) * load_some(weight + at, rest);
        store_some(out + at, (slope - load_some(x + at, rest) * (scale * mean)) * scale, rest);
    }
}

template <class T>
void norm_gradient(const Norm& all, int threads) {
    const long blocks = (all.rows + BLOCK - 1) / BLOCK, padded = (all.width + LANES - 1) / LANES * LANES;
    std::vector<float> sums(blocks * padded);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long block = 0; block < blocks; block++)
        for (long row = block * BLOCK; row < std::min(all.rows, (block + 1) * BLOCK); row++)
            norm_row_gradient<T>(all, row, &sums[block * padded]);
    for (long at = 0; at < all.width; at++) all.weight_grad[at] = 0;
    for (long block = 0; block < blocks; block++)
        for (long at = 0; at < all.width; at++) all.weight_grad[at] += sums[block * padded + at];
}

// For every vector of elements: does(place, elements there).
template <class Work>
void everywhere(long count, int threads, const Work& does) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long at = 0; at < count; at += LANES) does(at, count - at);
}

template <class T>
void gate(const Gate& all, int threads) {
    const T *gates = static_cast<const T*>(all.gate), *ups = static_cast<const T*>(all.up);
    everywhere(all.count, threads, [&](long at, long rest) {
        const Floats x = load_some(gates + at, rest);
        store_some(static_cast<T*>(all.out) + at, x / (1.0f + exponential(-x)) * load_some(ups + at, rest), rest);
    });
}

template <class T>
void gate_gradient(const Gate& all, int threads) {
    const T *gates = static_cast<const T*>(all.gate), *ups = static_cast<const T*>(all.up);
    const T* grads = static_cast<const T*>(all.grad);
    everywhere(all.count, threads, [&](long at, long rest) {
        const Floats x = load_some(gates + at, rest), grad = load_some(grads + at, rest);
        const Floats share = 1.0f / (1.0f + exponential(-x)), silu = x * share;
        const Floats slope = share + silu - silu * share;
        store_some(static_cast<T*>(all.out) + at, grad * load_some(ups + at, rest) * slope, rest);
        store_some(static_cast<T*>(all.up_grad) + at, grad * silu, rest);
    });
}

template <class T>
void rotate(const Rotation& all, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long token = 0; token < all.tokens; token++) {
        const T* cos = static_cast<const T*>(all.cos) + token % all.tables * all.half;
        const T* sin = static_cast<const T*>(all.sin) + token % all.tables * all.half;
        for (long head = 0; head < all.heads; head++) {
            const long begin = (token * all.heads + head) * 2 * all.half;
            const T* x = static_cast<const T*>(all.x) + begin;
            T* out = static_cast<T*>(all.out) + begin;
            for (long at = 0; at < all.half; at += LANES) {
                const long rest = all.half - at;
                const Floats first = load_some(x + at, rest), second = load_some(x + all.half + at, rest);
                const Floats c = load_some(cos + at, rest), s = load_some(sin + at, rest) * all.direction;
                store_some(out + at, first * c - second * s, rest);
                store_some(out + all.half + at, second * c + first * s, rest);
            }
        }
    }
}

}  // namespace

extern "C" {

void trivium_rotate(const Rotation* all, int bf16, int threads) { (bf16 ? rotate<BFloat16> : rotate<float>)(*all, threads); }

void trivium_norm(const Norm* all, int bf16, int threads) { (bf16 ? norm<BFloat16> : norm<float>)(*all, threads); }

void trivium_norm_gradient(const Norm* all, int bf16, int threads) {
    (bf16 ? norm_gradient<BFloat16> : norm_gradient<float>)(*all, threads);
}

void trivium_gate(const Gate* all, int bf16, int threads) { (bf16 ? gate<BFloat16> : gate<float>)(*all, threads); }

void trivium_gate_gradient(const Gate* all, int bf16, int threads) {
    (bf16 ? gate_gradient<BFloat16> : gate_gradient<float>)(*all, threads);
}
}
