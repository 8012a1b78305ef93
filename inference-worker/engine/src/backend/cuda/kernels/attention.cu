// Attention over keys and values in blocks of positions, with the softmax taken as it goes
// (https://arxiv.org/abs/2112.11682). Compiled with
//   HEAD_DIM  width of a head, 64 or 128
//   Q_HEADS, KV_HEADS  their quotient, at most 16, query heads share keys and values
//
// A warp has sixteen rows of queries. Keys and values lie in memory as `rotate` left them, in the
// order of the fragments, so that each lane reads sixteen bytes beside its neighbour's.

#define GROUP (Q_HEADS / KV_HEADS)
#define CHUNKS (HEAD_DIM / 32)
#define TILE (BLOCK * HEAD_DIM)
#define WARPS 4
// Positions that one block of `attend_decode` sees. Fixed, so that no result depends on how many
// there are in a step.
#define SPLIT 128
// Blocks of positions that `attend_prompt` copies at once.
#define STAGE 2

struct Rows {
    // Of the queries g and g + 8, eight components of each chunk.
    Quad upper[CHUNKS], lower[CHUNKS];
    // [..][0] and [1] belong to query g, [2] and [3] to g + 8.
    float out[HEAD_DIM / 8][4];
    float maximum[2], total[2];
};

__device__ inline Quad zeros() {
    Quad quad = {0, 0, 0, 0};
    return quad;
}

// `upper` and `lower` are the queries g and g + 8, or null.
__device__ inline void begin(Rows& rows, const bf16* upper, const bf16* lower) {
    const int t = threadIdx.x % 4;
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        rows.upper[chunk] = upper ? *(const Quad*)(upper + chunk * 32 + t * 8) : zeros();
        rows.lower[chunk] = lower ? *(const Quad*)(lower + chunk * 32 + t * 8) : zeros();
    }
    for (int tile = 0; tile < HEAD_DIM / 8; tile++) {
        for (int at = 0; at < 4; at++) {
            rows.out[tile][at] = 0.0f;
        }
    }
    for (int half = 0; half < 2; half++) {
        rows.maximum[half] = -INFINITE;
        rows.total[half] = 0.0f;
    }
}

// Clears what lies at a position that nobody wrote: it may be anything, and nothing times it is not
// nothing where it is infinite.
__device__ inline u32 written(u32 both, int position, int count) {
    return position + 1 < count ? both : position < count ? both & 0xffffu : 0;
}

// One block of positions: those before `upper` are seen by query g, those before `lower` by g + 8,
// those before `count` were written; all counted from the block's first position.
__device__ inline void see(Rows& rows, const Quad* keys, const Quad* values, int count, int upper,
                           int lower) {
    const int lane = threadIdx.x % LANES, t = lane % 4;
    float scores[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const Quad key = keys[(tile * CHUNKS + chunk) * LANES + lane];
            const Quad &a = rows.upper[chunk], &b = rows.lower[chunk];
            multiply(scores[tile], a.x, b.x, a.y, b.y, key.x, key.y);
            multiply(scores[tile], a.z, b.z, a.w, b.w, key.z, key.w);
        }
    }
    u32 weights[2][2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int end = half ? lower : upper;
        float most = rows.maximum[half];
#pragma unroll
        for (int at = 0; at < 4; at++) {
            float& score = scores[at / 2][half * 2 + at % 2];
            score = 4 * t + at < end ? score : -INFINITE;
            most = larger(most, score);
        }
        most = larger(most, exchange(most, 1));
        most = larger(most, exchange(most, 2));
        // A query that has seen nothing yet.
        const float base = most == -INFINITE ? 0.0f : most;
        const float factor = exp2f(rows.maximum[half] - base);
        rows.maximum[half] = most;
        rows.total[half] *= factor;
#pragma unroll
        for (int tile = 0; tile < HEAD_DIM / 8; tile++) {
            rows.out[tile][half * 2] *= factor;
            rows.out[tile][half * 2 + 1] *= factor;
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            const float first = exp2f(scores[tile][half * 2] - base);
            const float second = exp2f(scores[tile][half * 2 + 1] - base);
            rows.total[half] += first + second;
            weights[tile][half] = pack(first, second);
        }
    }
#pragma unroll
    for (int sixteen = 0; sixteen < HEAD_DIM / 16; sixteen++) {
        Quad value = values[sixteen * LANES + lane];
        if (count < BLOCK) {
            value.x = written(value.x, 4 * t, count);
            value.y = written(value.y, 4 * t + 2, count);
            value.z = written(value.z, 4 * t, count);
            value.w = written(value.w, 4 * t + 2, count);
        }
        multiply(rows.out[sixteen * 2], weights[0][0], weights[0][1], weights[1][0], weights[1][1],
                 value.x, value.y);
        multiply(rows.out[sixteen * 2 + 1], weights[0][0], weights[0][1], weights[1][0],
                 weights[1][1], value.z, value.w);
    }
}

// The weights of a query are spread over four lanes.
__device__ inline void finish(Rows& rows) {
    for (int half = 0; half < 2; half++) {
        rows.total[half] += exchange(rows.total[half], 1);
        rows.total[half] += exchange(rows.total[half], 2);
    }
}

// A few queries of a run that read the same keys and values; as the host counts them.
struct Tile {
    // Where the run's blocks begin in the table of blocks.
    int table;
    // The run's first row in the step, and its position.
    int first, from;
    // The queries, row after row, the heads of a group for each.
    int start, end;
};

// Prompts. blockIdx.x is the tile, blockIdx.y the head of keys and values.
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    attend_prompt(bf16* out, const bf16* queries, const bf16* keys, const bf16* values,
                  const Tile* tiles, const int* blocks) {
    __shared__ Quad staged[2][STAGE][2][TILE / 8];
    const Tile tile = tiles[blockIdx.x];
    const int head = blockIdx.y, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int upper = tile.start + warp * 16 + lane / 4, lower = upper + 8;
    auto place = [&](int query) {
        const u64 row = tile.first + query / GROUP;
        return (row * Q_HEADS + head * GROUP + query % GROUP) * HEAD_DIM;
    };
    Rows rows;
    begin(rows, upper < tile.end ? queries + place(upper) : nullptr,
          lower < tile.end ? queries + place(lower) : nullptr);
    // Positions that the last query sees; the run wrote all of them.
    const int all = tile.from + (tile.end - 1) / GROUP + 1;
    const int count = (all + BLOCK - 1) / BLOCK;
    const int upper_end = upper < tile.end ? tile.from + upper / GROUP + 1 : 0;
    const int lower_end = lower < tile.end ? tile.from + lower / GROUP + 1 : 0;
    auto fetch = [&](int first, int stage) {
        for (int block = first; block < first + STAGE && block < count; block++) {
            const u64 from = ((u64)blocks[tile.table + block] * KV_HEADS + head) * TILE;
            for (int at = threadIdx.x * 8; at < TILE; at += WARPS * LANES * 8) {
                copy_later(&staged[stage][block - first][0][at / 8], keys + from + at);
                copy_later(&staged[stage][block - first][1][at / 8], values + from + at);
            }
        }
        copies_end();
    };
    fetch(0, 0);
    for (int first = 0, stage = 0; first < count; first += STAGE, stage ^= 1) {
        fetch(first + STAGE, stage ^ 1);
        copies_wait<1>();
        __syncthreads();
        for (int block = first; block < first + STAGE && block < count; block++) {
            const int before = block * BLOCK;
            see(rows, staged[stage][block - first][0], staged[stage][block - first][1],
                all - before, upper_end - before, lower_end - before);
        }
        __syncthreads();
    }
    finish(rows);
    for (int half = 0; half < 2; half++) {
        const int query = half ? lower : upper;
        if (query < tile.end) {
            u32* to = (u32*)(out + place(query)) + lane % 4;
            for (int eight = 0; eight < HEAD_DIM / 8; eight++) {
                to[eight * 4] = pack(rows.out[eight][half * 2] / rows.total[half],
                                     rows.out[eight][half * 2 + 1] / rows.total[half]);
            }
        }
    }
}

// One query of each run, over a part of its positions. blockIdx.x is the head of keys and values,
// blockIdx.y the run, blockIdx.z the part. `lengths` are the positions of each run, 0 where it only
// fills a bucket; its blocks begin at tables[run] in `blocks`, its parts at firsts[run] in `parts`
// [part][query head][HEAD_DIM] and in `weights` [part][query head][2], maximum and total.
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    attend_decode(float* parts, float* weights, const bf16* queries, const bf16* keys,
                  const bf16* values, const int* rows_of, const int* lengths, const int* tables,
                  const int* firsts, const int* blocks) {
    __shared__ float found[WARPS][GROUP][HEAD_DIM];
    __shared__ float maximum[WARPS][GROUP], total[WARPS][GROUP];
    const int head = blockIdx.x, run = blockIdx.y, part = blockIdx.z;
    const int length = lengths[run], first = part * SPLIT;
    if (first >= length) {
        return;
    }
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4;
    const bf16* query = queries + ((u64)rows_of[run] * Q_HEADS + head * GROUP) * HEAD_DIM;
    Rows rows;
    begin(rows, g < GROUP ? query + g * HEAD_DIM : nullptr,
          g + 8 < GROUP ? query + (g + 8) * HEAD_DIM : nullptr);
    const int end = first + SPLIT < length ? first + SPLIT : length;
    for (int from = first + warp * BLOCK; from < end; from += WARPS * BLOCK) {
        const u64 place = ((u64)blocks[tables[run] + from / BLOCK] * KV_HEADS + head) * TILE;
        see(rows, (const Quad*)(keys + place), (const Quad*)(values + place), length - from,
            length - from, length - from);
    }
    finish(rows);
    for (int half = 0; half < 2; half++) {
        const int row = g + half * 8;
        if (row < GROUP) {
            for (int eight = 0; eight < HEAD_DIM / 8; eight++) {
                found[warp][row][eight * 8 + t * 2] = rows.out[eight][half * 2];
                found[warp][row][eight * 8 + t * 2 + 1] = rows.out[eight][half * 2 + 1];
            }
            if (t == 0) {
                maximum[warp][row] = rows.maximum[half];
                total[warp][row] = rows.total[half];
            }
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < GROUP * HEAD_DIM; at += WARPS * LANES) {
        const int row = at / HEAD_DIM, component = at % HEAD_DIM;
        // The first warp has seen something, so that this is finite.
        float most = maximum[0][row];
        for (int other = 1; other < WARPS; other++) {
            most = larger(most, maximum[other][row]);
        }
        float sum = 0.0f, all = 0.0f;
        for (int other = 0; other < WARPS; other++) {
            const float factor = exp2f(maximum[other][row] - most);
            sum += factor * found[other][row][component];
            all += factor * total[other][row];
        }
        const u64 place = (u64)(firsts[run] + part) * Q_HEADS + head * GROUP + row;
        parts[place * HEAD_DIM + component] = sum;
        if (component == 0) {
            weights[place * 2] = most;
            weights[place * 2 + 1] = all;
        }
    }
}

// Puts the parts of `attend_decode` together. blockIdx.x is the query head, blockIdx.y the run;
// HEAD_DIM threads.
extern "C" __global__ void __launch_bounds__(HEAD_DIM)
    combine(bf16* out, const float* parts, const float* weights, const int* rows_of,
            const int* lengths, const int* firsts) {
    const int head = blockIdx.x, run = blockIdx.y;
    const int count = (lengths[run] + SPLIT - 1) / SPLIT;
    if (count == 0) {
        return;
    }
    const u64 first = (u64)firsts[run] * Q_HEADS + head;
    float most = weights[first * 2];
    for (int part = 1; part < count; part++) {
        most = larger(most, weights[(first + part * Q_HEADS) * 2]);
    }
    float sum = 0.0f, all = 0.0f;
    for (int part = 0; part < count; part++) {
        const u64 place = first + part * Q_HEADS;
        const float factor = exp2f(weights[place * 2] - most);
        sum += factor * parts[place * HEAD_DIM + threadIdx.x];
        all += factor * weights[place * 2 + 1];
    }
    const u64 row = rows_of[run];
    out[(row * Q_HEADS + head) * HEAD_DIM + threadIdx.x] = narrow(sum / all);
}
