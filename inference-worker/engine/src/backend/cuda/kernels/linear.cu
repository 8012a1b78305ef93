// Products of a weight matrix with few inputs, for decoding: bound by reading the weights once.
//
// Sixteen rows of weights are one operand of the tensor cores, eight inputs the other; the order in
// which columns are summed up is the same for any number of inputs, so that no result depends on
// what else is in the step. The lanes of a quad read 64 consecutive bytes of a row, which is another
// order of columns than the fragments have, but the same for weights and inputs.

#define WARPS 8
// Steps of 32 columns that a warp loads before it computes.
#define AHEAD 4
#define STEP 32

// SET writes bf16, ADD adds to f32, GATED writes silu(gate) * up as bf16 for weights that hold the
// rows of the gates, then those of the ups, SCORES writes f32.
enum Mode { SET, ADD, GATED, SCORES };

__device__ inline Quad nothing() {
    Quad quad = {0, 0, 0, 0};
    return quad;
}

// out[input][row] = weight[row] . input (+ bias[row]). `rows` are those of the weights, `columns` a
// multiple of 32, `count` inputs, at most 8 * INPUTS. A block has ROWS * 16 rows.
template <int INPUTS, int ROWS, Mode MODE>
__device__ inline void linear(void* out, const bf16* weight, const bf16* input, const float* bias,
                              int rows, int columns, int count) {
    __shared__ float parts[WARPS][ROWS][INPUTS][4][LANES];
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES, g = lane / 4, t = lane % 4;
    // With gates, the lower half of a tile has the ups of the upper half's gates.
    const int outputs = MODE == GATED ? rows / 2 : rows;
    const int upper_half = MODE == GATED ? 8 : 16;
    const int first = blockIdx.x * ROWS * upper_half;
    const bf16* upper[ROWS];
    const bf16* lower[ROWS];
#pragma unroll
    for (int tile = 0; tile < ROWS; tile++) {
        // Rows behind the last one read the last one, and write nothing.
        const int row = first + tile * upper_half + g;
        const int other = MODE == GATED ? row + outputs : row + 8;
        const int last = MODE == GATED ? outputs - 1 : rows - 1;
        upper[tile] = weight + (u64)(row < last ? row : last) * columns + t * 8;
        lower[tile] = weight + (u64)(other < rows - 1 ? other : rows - 1) * columns + t * 8;
    }
    float sums[ROWS][INPUTS][4];
#pragma unroll
    for (int at = 0; at < ROWS * INPUTS * 4; at++) {
        sums[at / 4 / INPUTS][at / 4 % INPUTS][at % 4] = 0.0f;
    }
    for (int begin = warp * AHEAD * STEP; begin < columns; begin += WARPS * AHEAD * STEP) {
        Quad a[AHEAD][ROWS], b[AHEAD][ROWS];
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ahead++) {
            const int column = begin + ahead * STEP;
#pragma unroll
            for (int tile = 0; tile < ROWS; tile++) {
                a[ahead][tile] = column < columns ? load_once(upper[tile] + column) : nothing();
                b[ahead][tile] = column < columns ? load_once(lower[tile] + column) : nothing();
            }
        }
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ahead++) {
            const int column = begin + ahead * STEP;
            if (column >= columns) {
                break;
            }
#pragma unroll
            for (int eight = 0; eight < INPUTS; eight++) {
                const int at = eight * 8 + g;
                const Quad x = at < count
                    ? *(const Quad*)(input + (u64)at * columns + column + t * 8)
                    : nothing();
#pragma unroll
                for (int tile = 0; tile < ROWS; tile++) {
                    const Quad &up = a[ahead][tile], &down = b[ahead][tile];
                    multiply(sums[tile][eight], up.x, down.x, up.y, down.y, x.x, x.y);
                    multiply(sums[tile][eight], up.z, down.z, up.w, down.w, x.z, x.w);
                }
            }
        }
    }
#pragma unroll
    for (int at = 0; at < ROWS * INPUTS * 4; at++) {
        const int tile = at / 4 / INPUTS, eight = at / 4 % INPUTS;
        parts[warp][tile][eight][at % 4][lane] = sums[tile][eight][at % 4];
    }
    __syncthreads();
    // A number of each tile, input, and half row: lane 4 g + t has the inputs 2 t and 2 t + 1.
    const int each = upper_half * 8;
    for (int at = threadIdx.x; at < ROWS * INPUTS * each; at += WARPS * LANES) {
        const int tile = at / each / INPUTS, eight = at / each % INPUTS;
        const int row = at % upper_half, of_eight = at % each / upper_half;
        const int part = row / 8 * 2 + of_eight % 2, from = row % 8 * 4 + of_eight / 2;
        const int number = eight * 8 + of_eight, output = first + tile * upper_half + row;
        if (number >= count || output >= outputs) {
            continue;
        }
        float sum = bias ? bias[output] : 0.0f;
        float other = MODE == GATED && bias ? bias[outputs + output] : 0.0f;
        for (int of_warp = 0; of_warp < WARPS; of_warp++) {
            sum += parts[of_warp][tile][eight][part][from];
            if (MODE == GATED) {
                other += parts[of_warp][tile][eight][part + 2][from];
            }
        }
        const u64 place = (u64)number * outputs + output;
        if (MODE == SET) {
            ((bf16*)out)[place] = narrow(sum);
        } else if (MODE == ADD) {
            ((float*)out)[place] += sum;
        } else if (MODE == GATED) {
            ((bf16*)out)[place] = narrow(silu(sum) * other);
        } else {
            ((float*)out)[place] = sum;
        }
    }
}

#define LINEAR(name, inputs, rows_of_block, mode)                                             \
    extern "C" __global__ void __launch_bounds__(WARPS* LANES)                                \
        name(void* out, const bf16* weight, const bf16* input, const float* bias, int rows,   \
             int columns, int count) {                                                        \
        linear<inputs, rows_of_block, mode>(out, weight, input, bias, rows, columns, count);  \
    }

// For up to 8 and up to 16 inputs, 16 and 32 rows of weights in a block.
#define LINEARS(name, mode)            \
    LINEAR(name##_8_16, 1, 1, mode)    \
    LINEAR(name##_8_32, 1, 2, mode)    \
    LINEAR(name##_16_16, 2, 1, mode)   \
    LINEAR(name##_16_32, 2, 2, mode)

LINEARS(linear_set, SET)
LINEARS(linear_add, ADD)
LINEARS(linear_gated, GATED)
LINEARS(linear_scores, SCORES)
