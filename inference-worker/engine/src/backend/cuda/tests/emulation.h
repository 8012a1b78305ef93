// CUDA on a CPU, as far as the kernels need it: stands in front of them where they are compiled by a
// C++ compiler. The threads of a block are fibers; one runs until it waits for others, and which one
// goes first is drawn anew each time, so that a missing barrier shows in the results. Blocks run one
// after another.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define EMULATED
#define __global__
#define __device__
#define __launch_bounds__(...)
// One copy for the block that runs; cleared to NaN before each.
#define __shared__ static __attribute__((section("of_block")))
#define INFINITE __builtin_inff()

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim;

struct alignas(16) float4 {
    float x, y, z, w;
};

// Threads that wait for each other. `rounds` counts how often all were there.
struct Barrier {
    unsigned expected, arrived;
    uint64_t rounds;

    bool complete() {
        if (arrived < expected || arrived == 0) {
            return false;
        }
        arrived = 0;
        rounds++;
        return true;
    }
};

struct Warp {
    Barrier barrier;
    // What lanes show each other, in two turns: the other turn's may still be read.
    uint32_t shown[2][32][6];
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    const Barrier* waits;
    uint64_t seen;
    bool done;
    unsigned turn;
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Barrier whole;
static ucontext_t scheduler;
static Fiber* current;

static void wait(Barrier& barrier) {
    const uint64_t seen = barrier.rounds;
    barrier.arrived++;
    if (barrier.complete()) {
        return;
    }
    current->waits = &barrier;
    current->seen = seen;
    const Index own = threadIdx;
    swapcontext(&current->context, &scheduler);
    threadIdx = own;
}

static void __syncthreads() {
    wait(whole);
}

// Shows numbers to the other lanes, and returns what all of them show.
static const uint32_t (*show(const uint32_t* numbers, int count))[6] {
    Warp& warp = warps[threadIdx.x / 32];
    const unsigned turn = current->turn ^= 1;
    memcpy(warp.shown[turn][threadIdx.x % 32], numbers, count * 4);
    wait(warp.barrier);
    return warp.shown[turn];
}

static float bits_to_float(uint32_t bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

static uint32_t float_to_bits(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return bits;
}

static uint32_t rounded(float number) {
    const uint32_t bits = float_to_bits(number);
    return number != number ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static uint32_t pack(float low, float high) {
    return rounded(high) << 16 | rounded(low);
}

static float rsqrtf(float number) {
    return 1.0f / std::sqrt(number);
}

static float exchange(float number, int mask) {
    const uint32_t bits = float_to_bits(number);
    return bits_to_float(show(&bits, 1)[threadIdx.x % 32 ^ mask][0]);
}

static float half_of(uint32_t both, int which) {
    return bits_to_float(which ? both & 0xffff0000u : both << 16);
}

// The fragments are those of "Matrix Fragments for mma.m16n8k16" in the PTX ISA.
static void multiply(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                     uint32_t b0, uint32_t b1) {
    const uint32_t own[6] = {a0, a1, a2, a3, b0, b1};
    const uint32_t(*all)[6] = show(own, 6);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int at = 0; at < 4; at++) {
        const int row = g + at / 2 * 8, column = 2 * t + at % 2;
        double products = 0.0;
        for (int k = 0; k < 16; k++) {
            const uint32_t* a = all[row % 8 * 4 + k % 8 / 2];
            const uint32_t* b = all[column * 4 + k % 8 / 2];
            products += (double)half_of(a[row / 8 + k / 8 * 2], k % 2) * half_of(b[4 + k / 8], k % 2);
        }
        sum[at] += (float)products;
    }
}

// Copies arrive as late as they may: when they are waited for.
struct Copy {
    void* to;
    const void* from;
};
static std::vector<std::vector<Copy>> begun[1024];

static void copy_later(void* to, const void* from) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) {
        fputs("a copy of sixteen bytes is not aligned\n", stderr);
        exit(3);
    }
    auto& groups = begun[threadIdx.x];
    if (groups.empty()) {
        groups.emplace_back();
    }
    groups.back().push_back({to, from});
}

static void copies_end() {
    auto& groups = begun[threadIdx.x];
    if (groups.empty()) {
        groups.emplace_back();
    }
    groups.emplace_back();
}

template <int LATEST>
static void copies_wait() {
    auto& groups = begun[threadIdx.x];
    // The last one is not ended yet.
    while (groups.size() > LATEST + 1) {
        for (const Copy& copy : groups.front()) {
            memcpy(copy.to, copy.from, 16);
        }
        groups.erase(groups.begin());
    }
}

struct alignas(16) Quad;
template <class T = Quad>
static T load_once(const void* from) {
    if ((uintptr_t)from % 16) {
        fputs("a load of sixteen bytes is not aligned\n", stderr);
        exit(3);
    }
    return *(const T*)from;
}
