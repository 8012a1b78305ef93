// Heads of q, k and v after their projection: norm per head, rotary positions, and keys and values
// into the memory of blocks. Compiled with
//   HEAD_DIM  width of a head, 64 or 128
//   Q_HEADS, KV_HEADS
//   QK_NORM   1 where heads of q and k are normalised

#define PARTS (HEAD_DIM / LANES)
// Heads, each with a warp, of a block.
#define TOGETHER 4

// Where in the memory of one head in one block a component of a key lies: so that the lanes of a
// warp read their fragments of the score product side by side, sixteen bytes each. Lane 4 g + t
// has column g of a tile, four positions of which are 4 t .. 4 t + 3 over two tiles.
__device__ inline int key_place(int position, int component) {
    const int tile = position / 2 % 2, column = position / 4 * 2 + position % 2;
    const int chunk = component / 32, lane = column * 4 + component % 32 / 8;
    return ((tile * (HEAD_DIM / 32) + chunk) * LANES + lane) * 8 + component % 8;
}

// The same for a component of a value: lane 4 g + t has components g and g + 8 of sixteen, at the
// positions 4 t .. 4 t + 3.
__device__ inline int value_place(int position, int component) {
    const int lane = component % 8 * 4 + position / 4;
    return (component / 16 * LANES + lane) * 8 + component / 8 % 2 * 4 + position % 4;
}

// A warp for each head of each row: blockIdx.x is the row, blockIdx.y counts TOGETHER heads of q,
// then k, then v. `places` says where a row's keys and values go: block * BLOCK + position within
// it, or -1 for a row that only fills a bucket. Queries are scaled for exp2. `cosines` and `sines`
// are tables [positions][HEAD_DIM / 2]; `keys` and `values` the memory of one layer.
extern "C" __global__ void __launch_bounds__(TOGETHER* LANES)
    rotate(bf16* queries, bf16* keys, bf16* values, const bf16* qkv, const float* q_norm,
           const float* k_norm, const float* cosines, const float* sines, const int* positions,
           const int* places, float eps, float scale) {
    const int head = blockIdx.y * TOGETHER + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u64 row = blockIdx.x;
    if (head >= Q_HEADS + 2 * KV_HEADS) {
        return;
    }
    const bf16* from = qkv + (row * (Q_HEADS + 2 * KV_HEADS) + head) * HEAD_DIM;
    float numbers[PARTS];
    for (int part = 0; part < PARTS; part++) {
        numbers[part] = widen(from[part * LANES + lane]);
    }
    const int place = places[row];
    const u64 block = place >> BLOCK_BITS;
    const int within = place % BLOCK;
    if (head >= Q_HEADS + KV_HEADS) {
        if (place >= 0) {
            bf16* to = values + (block * KV_HEADS + head - Q_HEADS - KV_HEADS) * BLOCK * HEAD_DIM;
            for (int part = 0; part < PARTS; part++) {
                to[value_place(within, part * LANES + lane)] = narrow(numbers[part]);
            }
        }
        return;
    }
    if (QK_NORM) {
        const float* weight = head < Q_HEADS ? q_norm : k_norm;
        float squares = 0.0f;
        for (int part = 0; part < PARTS; part++) {
            squares += numbers[part] * numbers[part];
        }
        const float factor = rsqrtf(sum_of_warp(squares) / (float)HEAD_DIM + eps);
        for (int part = 0; part < PARTS; part++) {
            numbers[part] *= factor * weight[part * LANES + lane];
        }
    }
    const u64 turn = (u64)positions[row] * (HEAD_DIM / 2);
    for (int part = 0; part < PARTS / 2; part++) {
        const float cosine = cosines[turn + part * LANES + lane];
        const float sine = sines[turn + part * LANES + lane];
        const float first = numbers[part], second = numbers[part + PARTS / 2];
        numbers[part] = first * cosine - second * sine;
        numbers[part + PARTS / 2] = second * cosine + first * sine;
    }
    if (head < Q_HEADS) {
        bf16* to = queries + (row * Q_HEADS + head) * HEAD_DIM;
        for (int part = 0; part < PARTS; part++) {
            to[part * LANES + lane] = narrow(numbers[part] * scale);
        }
    } else if (place >= 0) {
        bf16* to = keys + (block * KV_HEADS + head - Q_HEADS) * BLOCK * HEAD_DIM;
        for (int part = 0; part < PARTS; part++) {
            to[key_place(within, part * LANES + lane)] = narrow(numbers[part]);
        }
    }
}
