// What reads and writes each number once. The residual stream is f32, inputs of products are bf16.

#define ROW_THREADS 256

// stream[row] = table[ids[row]]; a block for each row.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    embed(float* stream, const bf16* table, const int* ids, int hidden) {
    const bf16* from = table + (u64)ids[blockIdx.x] * hidden;
    float* to = stream + (u64)blockIdx.x * hidden;
    for (int at = threadIdx.x; at < hidden; at += ROW_THREADS) {
        to[at] = widen(from[at]);
    }
}

// out[row] = the normalised row rows[row] of the stream, or row itself where `rows` is null;
// a block for each row. `hidden` is a multiple of 4.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    rms_norm(bf16* out, const float* stream, const float* weight, const int* rows, int hidden,
             float eps) {
    __shared__ float parts[ROW_THREADS / LANES];
    const int row = rows ? rows[blockIdx.x] : (int)blockIdx.x;
    const float4* from = (const float4*)(stream + (u64)row * hidden);
    float squares = 0.0f;
    for (int at = threadIdx.x; at < hidden / 4; at += ROW_THREADS) {
        float4 four = from[at];
        squares += four.x * four.x + four.y * four.y + four.z * four.z + four.w * four.w;
    }
    squares = sum_of_block<ROW_THREADS>(squares, parts);
    const float factor = rsqrtf(squares / (float)hidden + eps);
    Pair* to = (Pair*)(out + (u64)blockIdx.x * hidden);
    for (int at = threadIdx.x; at < hidden / 4; at += ROW_THREADS) {
        float4 four = from[at];
        float4 by = ((const float4*)weight)[at];
        to[at].x = pack(four.x * factor * by.x, four.y * factor * by.y);
        to[at].y = pack(four.z * factor * by.z, four.w * factor * by.w);
    }
}

// out = silu(gate) * up, of rows that hold the gates, then the ups; `each` of either, even.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    gate(bf16* out, const bf16* gate_up, int each, int rows) {
    const u64 pairs = (u64)rows * (each / 2);
    const u64 stride = (u64)gridDim.x * ROW_THREADS;
    for (u64 at = (u64)blockIdx.x * ROW_THREADS + threadIdx.x; at < pairs; at += stride) {
        const u64 row = at / (each / 2), within = at % (each / 2);
        const u32* from = (const u32*)(gate_up + row * 2 * each);
        const u32 gates = from[within], ups = from[each / 2 + within];
        ((u32*)out)[at] = pack(silu(low(gates)) * low(ups), silu(high(gates)) * high(ups));
    }
}

// numbers[row] += bias, of `width` f32 (`add_bias_stream`) or bf16 (`add_bias`).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    add_bias(bf16* numbers, const float* bias, int width, int rows) {
    const u64 count = (u64)rows * width, stride = (u64)gridDim.x * ROW_THREADS;
    for (u64 at = (u64)blockIdx.x * ROW_THREADS + threadIdx.x; at < count; at += stride) {
        numbers[at] = narrow(widen(numbers[at]) + bias[at % width]);
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    add_bias_stream(float* numbers, const float* bias, int width, int rows) {
    const u64 count = (u64)rows * width, stride = (u64)gridDim.x * ROW_THREADS;
    for (u64 at = (u64)blockIdx.x * ROW_THREADS + threadIdx.x; at < count; at += stride) {
        numbers[at] += bias[at % width];
    }
}
