// What every kernel here uses: bf16 in 16-bit words, sums over a warp, the tensor cores, copies to
// shared memory. No header is included, so that NVRTC needs none. This file stands in front of each
// kernel file when it is compiled. Where the tests run the kernels on a CPU, EMULATED is defined and
// the few functions that are instructions of the device come from their emulation.

typedef unsigned short bf16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Positions of a block of keys and values.
#define BLOCK 16
// Its power of two.
#define BLOCK_BITS 4
#define LANES 32

struct alignas(16) Quad {
    u32 x, y, z, w;
};

struct alignas(8) Pair {
    u32 x, y;
};

#ifndef EMULATED

#define INFINITE __int_as_float(0x7f800000)

__device__ inline float bits_to_float(u32 bits) {
    return __uint_as_float(bits);
}

__device__ inline u32 float_to_bits(float number) {
    return __float_as_uint(number);
}

// Two numbers rounded to bf16, the first in the lower half.
__device__ inline u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// Adds a 16 x 16 matrix times a 16 x 8 one to `sum`, in the fragments of mma.sync.m16n8k16.
__device__ inline void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline float exchange(float number, int mask) {
    return __shfl_xor_sync(0xffffffffu, number, mask);
}

// Sixteen bytes that nobody reads again: they do not displace what others read.
__device__ inline Quad load_once(const void* from) {
    Quad quad;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(quad.x), "=r"(quad.y), "=r"(quad.z), "=r"(quad.w)
                 : "l"(from));
    return quad;
}

// Begins to copy sixteen bytes to shared memory.
__device__ inline void copy_later(void* to, const void* from) {
    u32 address = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}

// The copies begun so far are one group.
__device__ inline void copies_end() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's copies but for the latest `LATEST` groups.
template <int LATEST>
__device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
}

#endif

__device__ inline float widen(bf16 number) {
    return bits_to_float((u32)number << 16);
}

__device__ inline bf16 narrow(float number) {
    return (bf16)(pack(number, 0.0f) & 0xffffu);
}

__device__ inline float low(u32 both) {
    return bits_to_float(both << 16);
}

__device__ inline float high(u32 both) {
    return bits_to_float(both & 0xffff0000u);
}

__device__ inline float larger(float a, float b) {
    return a > b ? a : b;
}

// The sum over a warp, in every lane the same.
__device__ inline float sum_of_warp(float number) {
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        number += exchange(number, mask);
    }
    return number;
}

// The sum over a block of `THREADS`, in every thread the same. `parts` is shared memory of the
// caller for a number of each warp.
template <int THREADS>
__device__ inline float sum_of_block(float number, float* parts) {
    number = sum_of_warp(number);
    if (threadIdx.x % LANES == 0) {
        parts[threadIdx.x / LANES] = number;
    }
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < THREADS / LANES; warp++) {
        sum += parts[warp];
    }
    return sum;
}

__device__ inline float silu(float number) {
    return number / (1.0f + exp2f(number * -1.44269504f));
}
