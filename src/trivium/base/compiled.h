// Arithmetic for the code that is compiled at first use: vectors of fp32, elements of fp32 or bf16, and products of
// matrices in tiles. See compiled.py.
//
// Rows of a left matrix meet panels of the right one: PANEL of its columns side by side, along the depth, in words of
// one fp32 element or two bf16 ones. A sum runs along the depth in one order, whatever the tile it is in.

#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#pragma GCC diagnostic ignored "-Wunused-function"  // nobody needs all of these

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, TILE_ROWS = 12;  // 24 sums, two columns and a row's element fill 32 registers
#else
constexpr int LANES = 8, TILE_ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
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

template <class T>
void fetch(const T* from, long count) {  // into the nearest cache, to be there when it is read
    for (const char *at = (const char*)from, *end = (const char*)(from + count); at < end; at += 64) __builtin_prefetch(at);
}

Floats all_of(float value) { return Floats{} + value; }

Ints lane_numbers() {
    Ints numbers;
    for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
    return numbers;
}

Floats as_floats(Words words) { return (Floats)words; }

Floats load_floats(const float* from) { return load<Floats>(from); }

#ifdef __AVX512F__
Words widened(Halves halves) { return (Words)_mm512_cvtepu16_epi32((__m256i)halves); }  // in one, as GCC does not see
#else
Words widened(Halves halves) { return __builtin_convertvector(halves, Words); }
#endif

Floats load_floats(const BFloat16* from) { return as_floats(widened(load<Halves>(from)) << 16); }

// To the nearest bf16, ties to even. The processor's own rounding takes what is below 1e-38 for zero.
#ifdef __AVX512BF16__
Halves halves(Floats values) { return (Halves)_mm512_cvtneps_pbh((__m512)values); }

Words rounded(Floats values) { return widened(halves(values)); }
#else
Words rounded(Floats values) {
    const Words bits = (Words)values;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

Halves halves(Floats values) { return __builtin_convertvector(rounded(values), Halves); }
#endif

void store_elements(float* to, Floats values) { store(to, values); }

void store_elements(BFloat16* to, Floats values) { store(to, halves(values)); }

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

float total(Floats values) {  // halves are added up until one lane is left
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)values);
#else
    float lanes[LANES];
    std::memcpy(lanes, &values, sizeof values);
#pragma GCC unroll 4
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
#endif
}

// A word is one fp32 element or a pair of bf16 ones, the first in its lower half. add: sums += left * right, a pair's two
// products one after the other.
template <class T>
struct Word;

template <>
struct Word<float> {
    static constexpr int ELEMENTS = 1;
    static Floats add(Floats sums, Words left, Words right) { return sums + as_floats(left) * as_floats(right); }
    static Floats element(Words words, int) { return as_floats(words); }
    static Words words(const Floats* elements) { return (Words)elements[0]; }
};

template <>
struct Word<BFloat16> {
    static constexpr int ELEMENTS = 2;
    static Floats element(Words words, int which) { return as_floats(which ? words & 0xffff0000 : words << 16); }
    static Words words(const Floats* elements) { return rounded(elements[0]) | (rounded(elements[1]) << 16); }
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
    const Floats low = x < -87.0f ? all_of(-87.0f) : x, in_range = low > 88.0f ? all_of(88.0f) : low;
    const Floats shifted = in_range * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
    const Floats rest = in_range - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats sum = rest * 1.9875691e-4f + 1.3981999e-3f;
    sum = sum * rest + 8.3334519e-3f;
    sum = sum * rest + 4.1665796e-2f;
    sum = sum * rest + 1.6666666e-1f;
    sum = sum * rest + 5.0000001e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const Floats raised = as_floats((Words)sum + ((Words)shifted << 23));
    return x < -87.0f ? all_of(0.0f) : raised;
}

template <class T>
float sum_of_products(const T* one, const T* other, long width) {
    Floats sums = {};
    long at = 0;
    for (; at + LANES <= width; at += LANES) sums += load_floats(one + at) * load_floats(other + at);
    float sum = total(sums);
    for (; at < width; at++) sum += element(one[at]) * element(other[at]);
    return sum;
}

float largest(const float* from, long count) {
    Floats most = all_of(-INFINITY);
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

// A left matrix: element (row, word w) begins at `first + row * row_stride + w * word_stride`.
template <class T>
struct Left {
    const T* first;
    long row_stride, word_stride = Word<T>::ELEMENTS;
    Left from(long row) const { return {first + row * row_stride, row_stride, word_stride}; }
};

struct Sums {  // a matrix of fp32 whose rows are `stride` apart
    float* first;
    long stride;
    Sums from(long row) const { return {first + row * stride, stride}; }
};

// ROWS rows times a panel, written over `to` or added to it. Of its own, that it be compiled once for all its uses.
template <int ROWS, class T>
__attribute__((noinline)) void tile(Left<T> left, const uint32_t* panel, long words, Sums to, bool add) {
    Floats sums[ROWS][2] = {};
    const T* at = left.first;
    if (add)
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            sums[row][0] = load_floats(to.from(row).first);
            sums[row][1] = load_floats(to.from(row).first + LANES);
        }
    for (long word = 0; word < words; word++, panel += PANEL, at += left.word_stride) {
        if (ROWS > 2)  // meanwhile the next panel comes near: of large matrices it is in no core's cache yet
            for (int line = 0; line < PANEL; line += 16) __builtin_prefetch(panel + words * PANEL + line, 0, 2);
        const Words first = load<Words>(panel), second = load<Words>(panel + LANES);
#pragma GCC unroll 12
        for (int row = 0; row < ROWS; row++) {
            uint32_t bits;
            std::memcpy(&bits, at + row * left.row_stride, 4);
            const Words value = Words{} + bits;
            sums[row][0] = Word<T>::add(sums[row][0], first, value);
            sums[row][1] = Word<T>::add(sums[row][1], second, value);
        }
    }
#pragma GCC unroll 12  // or the sums would be kept in memory
    for (int row = 0; row < ROWS; row++) {
        store(to.from(row).first, sums[row][0]);
        store(to.from(row).first + LANES, sums[row][1]);
    }
}

template <int ROWS, class T>
void some_rows(long rows, Left<T> left, const uint32_t* panel, long words, Sums to, bool add) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            tile<ROWS>(left, panel, words, to, add);
        else
            some_rows<ROWS - 1>(rows, left, panel, words, to, add);
    }
}

// All rows of `left` times one panel of `words` words: PANEL columns of `to`.
template <class T>
void multiply(long rows, Left<T> left, const uint32_t* panel, long words, Sums to, bool add = false) {
    for (long row = 0; row < rows; row += TILE_ROWS)
        some_rows<TILE_ROWS>(std::min<long>(TILE_ROWS, rows - row), left.from(row), panel, words, to.from(row), add);
}

// The same to be done something with: result(row, the panel's first LANES sums, the others).
template <class T, class Store>
void multiply(long rows, Left<T> left, const uint32_t* panel, long words, const Store& result) {
    alignas(64) float sums[TILE_ROWS * PANEL];
    for (long begin = 0; begin < rows; begin += TILE_ROWS) {
        const long count = std::min<long>(TILE_ROWS, rows - begin);
        multiply(count, left.from(begin), panel, words, Sums{sums, PANEL});
        for (long row = 0; row < count; row++)
            result(begin + row, load<Floats>(sums + row * PANEL), load<Floats>(sums + row * PANEL + LANES));
    }
}

}  // namespace

