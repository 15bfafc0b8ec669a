// Negative log-likelihoods of rows of logits and, in the logits' place, their gradient: one visit to each row while it
// is in a processor's cache. Compiled at first use; see cross_entropy.py.

#include "../base/compiled.h"

struct Rows {
    void* logits;            // (count, width); the gradients' place too, if these are wanted
    const int64_t* targets;  // (count,)
    const float* scales;     // (count,) factors of the gradients, or none for 1
    float* nll;              // (count,)
    long count, width;
    float per_temperature;
};

namespace {

template <class T>
void row(const Rows& all, long number, bool gradient, std::vector<float>& values) {
    T* logits = static_cast<T*>(all.logits) + number * all.width;
    float* x = values.data();
    long at = 0;
    for (; at + LANES <= all.width; at += LANES) store(x + at, load_floats(logits + at) * all.per_temperature);
    for (; at < all.width; at++) x[at] = element(logits[at]) * all.per_temperature;
    const long target = all.targets[number];
    const float highest = largest(x, all.width), of_target = x[target];
    const float sum = exponentials(x, all.width, highest);
    all.nll[number] = highest - of_target + std::log(sum);
    if (!gradient) return;
    const float scale = all.scales ? all.scales[number] : 1.0f, share = scale / sum;
    const float error = x[target] * share - scale;
    for (at = 0; at + LANES <= all.width; at += LANES) store_elements(logits + at, load_floats(x + at) * share);
    for (; at < all.width; at++) store_element(logits + at, x[at] * share);
    store_element(logits + target, error);
}

template <class T>
int all_rows(const Rows& all, bool gradient, int threads) {
    for (long number = 0; number < all.count; number++)
        if (all.targets[number] < 0 || all.targets[number] >= all.width) return 1;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> values(all.width + LANES);
#pragma omp for schedule(static)
        for (long number = 0; number < all.count; number++) row<T>(all, number, gradient, values);
    }
    return 0;
}

}  // namespace

extern "C" int trivium_cross_entropy(const Rows* all, int gradient, int bf16, int threads) {  // 0 where all went well
    return bf16 ? all_rows<BFloat16>(*all, gradient, threads) : all_rows<float>(*all, gradient, threads);
}
