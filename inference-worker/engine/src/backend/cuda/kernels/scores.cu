// What choosing a token needs to know of its scores: the highest ones with their ids, and sums of
// exponentials from which probabilities follow.

// Scores that a block sorts, a power of two.
#define SORTED 2048
#define SORTERS 512
// The highest ones that are kept.
#define KEPT 64
// A summary: the highest score, the sum of exp(score - highest), the same with the scores divided by
// the temperature, and how many scores are not numbers.
#define SUMMARY 4

// Falling order of keys is falling order of scores, the lower id first among equals. No score has
// the key 0.
__device__ inline u64 key_of(float score, u32 id) {
    // The sum makes one zero of both.
    const u32 bits = float_to_bits(score + 0.0f);
    const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (u32)~id;
}

__device__ inline float score_of(u64 key) {
    const u32 ordered = (u32)(key >> 32);
    return bits_to_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// Sorts in falling order: https://doi.org/10.1145/1468075.1468121.
__device__ inline void sort(u64* keys) {
    for (int size = 2; size <= SORTED; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < SORTED / 2; pair += SORTERS) {
                const int low = pair / stride * stride * 2 + pair % stride, high = low + stride;
                const u64 first = keys[low], second = keys[high];
                if ((first < second) == ((low & size) == 0)) {
                    keys[low] = second;
                    keys[high] = first;
                }
            }
        }
    }
    __syncthreads();
}

// SORTED scores of a row: blockIdx.x of them before, blockIdx.y is the row. To `keys`
// [row][gridDim.x][KEPT] and `summaries` [row][gridDim.x][SUMMARY]. `temperatures` are above 0.
extern "C" __global__ void __launch_bounds__(SORTERS)
    summarise(u64* keys, float* summaries, const float* scores, const float* temperatures,
              int vocabulary) {
    __shared__ u64 sorted[SORTED];
    __shared__ float parts[3][SORTERS / LANES];
    const float* row = scores + (u64)blockIdx.y * vocabulary;
    const u64 place = (u64)blockIdx.y * gridDim.x + blockIdx.x;
    const int first = blockIdx.x * SORTED;
    float strange = 0.0f;
    for (int at = threadIdx.x; at < SORTED; at += SORTERS) {
        const bool there = first + at < vocabulary;
        const float score = there ? row[first + at] : 0.0f;
        const bool number = score == score;
        strange += number ? 0.0f : 1.0f;
        sorted[at] = there && number ? key_of(score, first + at) : 0;
    }
    sort(sorted);
    const u64 best = sorted[0];
    const float highest = best ? score_of(best) : -INFINITE;
    // All are minus infinity, or none is a number: differences would not be.
    const float base = highest == -INFINITE ? 0.0f : highest;
    const float cooler = 1.0f / temperatures[blockIdx.y];
    float plain = 0.0f, tempered = 0.0f;
    for (int at = threadIdx.x; at < SORTED; at += SORTERS) {
        if (sorted[at]) {
            const float below = (score_of(sorted[at]) - base) * 1.44269504f;
            plain += exp2f(below);
            tempered += exp2f(below * cooler);
        }
    }
    plain = sum_of_block<SORTERS>(plain, parts[0]);
    tempered = sum_of_block<SORTERS>(tempered, parts[1]);
    strange = sum_of_block<SORTERS>(strange, parts[2]);
    if (threadIdx.x < KEPT) {
        keys[place * KEPT + threadIdx.x] = sorted[threadIdx.x];
    }
    if (threadIdx.x == 0) {
        summaries[place * SUMMARY] = highest;
        summaries[place * SUMMARY + 1] = plain;
        summaries[place * SUMMARY + 2] = tempered;
        summaries[place * SUMMARY + 3] = strange;
    }
}

// Puts the `count` parts of each row together; a block for each. To `ids` and `best` [row][KEPT],
// where places behind the last score have minus infinity, and `whole` [row][SUMMARY].
extern "C" __global__ void __launch_bounds__(SORTERS)
    summarise_parts(u32* ids, float* best, float* whole, const u64* keys, const float* summaries,
                    const float* temperatures, int count) {
    __shared__ u64 sorted[SORTED];
    const u64 row = blockIdx.x;
    const u64* from = keys + row * count * KEPT;
    const int all = count * KEPT;
    for (int begin = 0; begin == 0 || begin < all; begin += SORTED - KEPT) {
        // What was kept so far, then as many new ones as fit.
        for (int at = threadIdx.x + KEPT; at < SORTED; at += SORTERS) {
            const int next = begin + at - KEPT;
            sorted[at] = next < all ? from[next] : 0;
        }
        if (begin == 0 && threadIdx.x < KEPT) {
            sorted[threadIdx.x] = 0;
        }
        sort(sorted);
    }
    if (threadIdx.x < KEPT) {
        const u64 key = sorted[threadIdx.x];
        ids[row * KEPT + threadIdx.x] = key ? ~(u32)key : 0;
        best[row * KEPT + threadIdx.x] = key ? score_of(key) : -INFINITE;
    }
    if (threadIdx.x == 0) {
        const float highest = sorted[0] ? score_of(sorted[0]) : -INFINITE;
        const float base = highest == -INFINITE ? 0.0f : highest;
        const float cooler = 1.0f / temperatures[row];
        double plain = 0.0, tempered = 0.0;
        float strange = 0.0f;
        for (int part = 0; part < count; part++) {
            const float* summary = summaries + (row * count + part) * SUMMARY;
            const float below = (summary[0] - base) * 1.44269504f;
            plain += exp2f(below) * summary[1];
            tempered += exp2f(below * cooler) * summary[2];
            strange += summary[3];
        }
        whole[row * SUMMARY] = highest;
        whole[row * SUMMARY + 1] = (float)plain;
        whole[row * SUMMARY + 2] = (float)tempered;
        whole[row * SUMMARY + 3] = strange;
    }
}
