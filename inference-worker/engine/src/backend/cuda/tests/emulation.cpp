// Runs kernels, one after another. Reads from the standard input a seed, memories with their addresses,
// and for each launch the kernel's name, the grid, the threads of a block and the arguments; writes
// the memories back. KERNELS lists the kernels as KERNEL(name).

extern char __start_of_block[] __attribute__((weak));
extern char __stop_of_block[] __attribute__((weak));

static void read_all(void* to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) {
        fputs("the input ends too early\n", stderr);
        exit(3);
    }
}

static uint32_t read_number() {
    uint32_t number;
    read_all(&number, 4);
    return number;
}

static uint64_t read_address() {
    uint64_t address;
    read_all(&address, 8);
    return address;
}

struct Memory {
    uint64_t address;
    size_t bytes;
    // Exactly as large, so that the sanitizer sees what is beyond it.
    char* buffer;
};
static std::vector<Memory> memories;
static std::vector<uint64_t> arguments;

template <class T>
struct As {
    static T get(uint64_t argument) {
        static_assert(sizeof(T) == 4, "a number of 32 bits");
        T value;
        memcpy(&value, &argument, 4);
        return value;
    }
};

template <class T>
struct As<T*> {
    static T* get(uint64_t argument) {
        if (argument == 0) {
            return nullptr;
        }
        for (const Memory& memory : memories) {
            if (argument >= memory.address && argument <= memory.address + memory.bytes) {
                return (T*)(memory.buffer + (argument - memory.address));
            }
        }
        fputs("an argument is no address\n", stderr);
        exit(3);
    }
};

template <class... T, size_t... AT>
static void call(void (*kernel)(T...), std::index_sequence<AT...>) {
    if (sizeof...(T) != arguments.size()) {
        fputs("another number of arguments\n", stderr);
        exit(3);
    }
    kernel(As<T>::get(arguments[AT])...);
}

template <class... T>
static void call(void (*kernel)(T...)) {
    call(kernel, std::index_sequence_for<T...>());
}

static char name[64];

static void run_thread() {
    bool known = false;
#define KERNEL(kernel)              \
    if (!strcmp(name, #kernel)) {   \
        known = true;               \
        call(kernel);               \
    }
    KERNELS
    if (!known) {
        fputs("an unknown kernel\n", stderr);
        exit(3);
    }
    current->done = true;
    whole.expected--;
    whole.complete();
    swapcontext(&current->context, &scheduler);
}

static void run_block(unsigned threads, std::vector<unsigned>& order, uint32_t& random) {
    if (__start_of_block) {
        memset(__start_of_block, 0xff, __stop_of_block - __start_of_block);
    }
    whole = {threads, 0, 0};
    warps.assign((threads + 31) / 32, Warp());
    for (unsigned at = 0; at < warps.size(); at++) {
        // A warp whose lanes do not all come never goes on, as on a device.
        warps[at].barrier.expected = 32;
    }
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        fiber.waits = nullptr;
        fiber.done = false;
        makecontext(&fiber.context, run_thread, 0);
    }
    for (bool moved = true; moved;) {
        for (unsigned at = threads; random && at > 1; at--) {
            random ^= random << 13, random ^= random >> 17, random ^= random << 5;
            std::swap(order[at - 1], order[random % at]);
        }
        moved = false;
        for (unsigned thread : order) {
            Fiber& fiber = fibers[thread];
            if (fiber.done || (fiber.waits && fiber.waits->rounds == fiber.seen)) {
                continue;
            }
            moved = true;
            fiber.waits = nullptr;
            threadIdx = {thread, 0, 0};
            current = &fiber;
            swapcontext(&scheduler, &fiber.context);
        }
    }
    for (unsigned thread = 0; thread < threads; thread++) {
        if (!fibers[thread].done) {
            fprintf(stderr, "thread %u of block %u %u %u waits forever\n", thread, blockIdx.x,
                    blockIdx.y, blockIdx.z);
            exit(3);
        }
        begun[thread].clear();
    }
}

static void launch(std::vector<unsigned>& order, uint32_t& random) {
    const uint32_t length = read_number();
    if (length >= sizeof name) {
        exit(3);
    }
    read_all(name, length);
    name[length] = 0;
    const unsigned x = read_number(), y = read_number(), z = read_number();
    const unsigned threads = read_number();
    arguments.resize(read_number());
    for (uint64_t& argument : arguments) {
        argument = read_address();
    }
    gridDim = {x, y, z};
    fibers.resize(threads);
    order.clear();
    for (unsigned thread = 0; thread < threads; thread++) {
        fibers[thread].stack.resize(1 << 16);
        order.push_back(thread);
    }
    for (unsigned at = 0; at < x * y * z; at++) {
        blockIdx = {at % x, at / x % y, at / x / y};
        run_block(threads, order, random);
    }
}

int main() {
    uint32_t random = read_number();
    memories.resize(read_number());
    for (Memory& memory : memories) {
        memory.address = read_address();
        memory.bytes = read_number();
        memory.buffer = (char*)malloc(memory.bytes);
        read_all(memory.buffer, memory.bytes);
    }
    std::vector<unsigned> order;
    for (uint32_t left = read_number(); left > 0; left--) {
        launch(order, random);
    }
    for (const Memory& memory : memories) {
        fwrite(memory.buffer, 1, memory.bytes, stdout);
    }
    return 0;
}
