// Runs the blocks of a launch: fibers, barriers, collectives, checked shared memory, guarded device memory.
#include "emulate.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulate {
namespace {

constexpr size_t STACK = 64 * 1024;
constexpr unsigned MANY = 0xffff; // several threads

struct Kernel {
    size_t params_size;
    unsigned max_threads;
    Entry entry;
};

std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> table; // made by the first registration, whatever the order of the files
    return table;
}

enum class State { Fresh, Ready, AtBarrier, AtCollective, Finished };

struct PendingCopy {
    unsigned to;
    const void *from;
    unsigned bytes;
};

struct Fiber {
    unsigned index = 0;
    State state = State::Fresh;
    unsigned phase = 0;         // which of the warp's two sets of slots the next collective uses
    unsigned char *stack = nullptr;
#if defined(__x86_64__)
    void *top = nullptr; // saved stack pointer
#else
    ucontext_t context;
#endif
    std::vector<std::vector<PendingCopy>> groups; // committed, oldest first
    std::vector<PendingCopy> open;                // since the last commit
};

struct Warp {
    unsigned arrived = 0; // lanes at the collective
    const char *kind = nullptr;
    unsigned epoch = 0; // collectives passed
    alignas(16) unsigned char slots[2][32 * SLOT];
};

// Who touched two bytes of shared memory, and when: the block's and the warp's count of barriers at that time.
struct Cell {
    bool written = false;
    bool read = false;
    unsigned writer = 0, reader = 0; // threads; reader may be MANY
    unsigned write_epoch = 0, write_warp_epoch = 0;
    unsigned read_epoch = 0, read_warp_epoch = 0;
};

struct Block {
    const char *kernel = nullptr;
    Dim grid{}, index{};
    unsigned threads = 0;
    const Kernel *entry = nullptr;
    const void *params = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared;
    std::vector<Cell> cells;
    unsigned epoch = 0; // barriers passed
    Fiber *current = nullptr;
    bool failed = false;
    std::string message;
    size_t bytes_moved = 0;
#if defined(__x86_64__)
    void *scheduler = nullptr;
#else
    ucontext_t scheduler;
#endif
    sigjmp_buf fault;

    // Fresh threads and uninitialised shared memory.
    void begin(unsigned shared_bytes) {
        shared.assign(shared_bytes, 0);
        cells.assign((shared_bytes + 1) / 2, Cell{});
        epoch = 0;
        for (unsigned t = 0; t < threads; ++t) {
            Fiber &fiber = fibers[t];
            fiber.index = t;
            fiber.state = State::Fresh;
            fiber.phase = 0;
            fiber.groups.clear();
            fiber.open.clear();
        }
        for (Warp &warp : warps) {
            warp.arrived = 0;
            warp.epoch = 0;
        }
    }

    ~Block();
};

// Stacks that no fiber of this host thread uses.
struct Stacks {
    std::vector<unsigned char *> free;

    unsigned char *take() {
        if (free.empty()) {
            void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (stack == MAP_FAILED) {
                fprintf(stderr, "error: emulated device: no memory for the stacks of a block\n");
                abort();
            }
            return static_cast<unsigned char *>(stack);
        }
        unsigned char *stack = free.back();
        free.pop_back();
        return stack;
    }

    ~Stacks() {
        for (unsigned char *stack : free) {
            munmap(stack, STACK);
        }
    }
};

thread_local Stacks stacks;

// What a failed block leaves behind.
Block::~Block() {
    for (Fiber &fiber : fibers) {
        if (fiber.stack != nullptr) {
            stacks.free.push_back(fiber.stack);
        }
    }
}

thread_local Block *block = nullptr;

#if defined(__x86_64__)
// Saves the callee-saved registers and the stack pointer to *from, and goes on where `to` was saved.
extern "C" void emberformer_emulate_switch(void **from, void *to);
asm(R"(
.text
.globl emberformer_emulate_switch
.type emberformer_emulate_switch, @function
emberformer_emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emberformer_emulate_switch, .-emberformer_emulate_switch
)");
#endif

void to_scheduler() {
    Fiber *fiber = block->current;
#if defined(__x86_64__)
    emberformer_emulate_switch(&fiber->top, block->scheduler);
#else
    swapcontext(&fiber->context, &block->scheduler);
#endif
}

void fiber_main() {
    block->entry->entry(block->params);
    block->current->state = State::Finished;
    to_scheduler();
    abort(); // a finished fiber is never resumed
}

void resume(Fiber &fiber) {
    block->current = &fiber;
    const bool fresh = fiber.state == State::Fresh;
    fiber.state = State::Ready;
    if (fresh) {
        fiber.stack = stacks.take();
#if defined(__x86_64__)
        // Six registers and the return address; the entry sees the stack as after a call, 8 below a multiple of 16.
        void **top = reinterpret_cast<void **>(fiber.stack + STACK - 64);
        top[6] = reinterpret_cast<void *>(fiber_main);
        top[7] = nullptr;
        fiber.top = top;
#else
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
#endif
    }
#if defined(__x86_64__)
    emberformer_emulate_switch(&block->scheduler, fiber.top);
#else
    swapcontext(&block->scheduler, &fiber.context);
#endif
    block->current = nullptr;
    if (fiber.state == State::Finished) {
        stacks.free.push_back(fiber.stack);
        fiber.stack = nullptr;
    }
}

std::string place(unsigned thread) {
    char text[256];
    snprintf(text, sizeof(text), "kernel %s, block (%u, %u, %u), thread %u", block->kernel, block->index.x,
             block->index.y, block->index.z, thread);
    return text;
}

void fail(unsigned thread, const std::string &what) {
    if (!block->failed) {
        block->failed = true;
        block->message = place(thread) + ": " + what;
    }
}

// Resumes whoever can go on until all have finished or something is wrong.
void schedule(bool reversed) {
    const unsigned n = block->threads;
    for (;;) {
        unsigned finished = 0, at_barrier = 0;
        bool progress = false;
        for (unsigned i = 0; i < n; ++i) {
            Fiber &fiber = block->fibers[reversed ? n - 1 - i : i];
            if (fiber.state == State::Fresh || fiber.state == State::Ready) {
                resume(fiber);
                progress = true;
                if (block->failed) {
                    return;
                }
            }
        }
        unsigned waiting = 0, done = 0; // examples, for the report
        bool at_collective = false;
        for (Fiber &fiber : block->fibers) {
            if (fiber.state == State::Finished) {
                ++finished;
                done = fiber.index;
            } else if (fiber.state == State::AtBarrier) {
                ++at_barrier;
                waiting = fiber.index;
            } else if (fiber.state == State::AtCollective) {
                at_collective = true;
            }
        }
        if (finished == n) {
            return;
        }
        if (at_barrier == n) {
            ++block->epoch;
            for (Fiber &fiber : block->fibers) {
                fiber.state = State::Ready;
            }
            continue;
        }
        if (progress) {
            continue;
        }
        if (at_collective) {
            for (Fiber &fiber : block->fibers) {
                if (fiber.state == State::AtCollective) {
                    const Warp &warp = block->warps[fiber.index / 32];
                    char text[128];
                    snprintf(text, sizeof(text), "waits at %s, which not all lanes of its warp reach (arrived: 0x%08x)",
                             warp.kind, warp.arrived);
                    return fail(fiber.index, text);
                }
            }
        }
        return fail(waiting, "waits at __syncthreads, which thread " + std::to_string(done) + " never reaches");
    }
}

// Runs the block at hand; an access outside of device memory ends it here.
void run_block(bool reversed) {
    if (sigsetjmp(block->fault, 1) == 0) {
        schedule(reversed);
    }
}

// ---- device memory ----

size_t page() {
    static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Who handled a bad address before: SIGBUS where no page can be, SIGSEGV elsewhere.
struct sigaction previous_segv, previous_bus;

void on_fault(int signal, siginfo_t *info, void *context) {
    if (block != nullptr && block->current != nullptr) {
        char text[128];
        snprintf(text, sizeof(text), "access outside of every device buffer, at address %p", info->si_addr);
        fail(block->current->index, text);
        siglongjmp(block->fault, 1);
    }
    // Not a kernel's: whoever handled faults before does.
    struct sigaction &previous = signal == SIGBUS ? previous_bus : previous_segv;
    if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
        previous.sa_sigaction(signal, info, context);
    } else {
        sigaction(signal, &previous, nullptr);
    }
}

void install_fault_handler() {
    static const bool installed = [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        return sigaction(SIGSEGV, &action, &previous_segv) == 0 && sigaction(SIGBUS, &action, &previous_bus) == 0;
    }();
    (void)installed;
}

// ---- shared memory ----

// The cells of an access, after the checks that both kinds of access share.
Cell *locate(unsigned offset, size_t size, const char *what) {
    if (offset + size > block->shared.size() || offset + size < offset) {
        report("%s of %zu bytes at %u of %zu bytes of shared memory", what, size, offset, block->shared.size());
    }
    if (offset % 2 != 0 || size % 2 != 0) {
        report("%s of %zu bytes at %u of shared memory: elements have at least two bytes here", what, size, offset);
    }
    return &block->cells[offset / 2];
}

// Whether an access of `thread` at those counts is not separated from the running thread by a barrier.
bool unordered(unsigned thread, unsigned epoch, unsigned warp_epoch) {
    const unsigned me = block->current->index;
    if (thread == me || epoch != block->epoch) {
        return false;
    }
    return thread == MANY || thread / 32 != me / 32 || warp_epoch == block->warps[me / 32].epoch;
}

void mark_read(Cell &cell) {
    const unsigned me = block->current->index, warp_epoch = block->warps[me / 32].epoch;
    const bool same_time = cell.read && cell.read_epoch == block->epoch;
    if (same_time && cell.reader != me) {
        // One warp's reads stay distinguishable by their warp's count, others only by the block's.
        if (cell.reader == MANY || cell.reader / 32 != me / 32) {
            cell.reader = MANY;
        } else if (cell.read_warp_epoch == warp_epoch) {
            cell.reader = MANY;
        } else {
            cell.reader = me;
        }
    } else {
        cell.reader = me;
    }
    cell.read = true;
    cell.read_epoch = block->epoch;
    cell.read_warp_epoch = warp_epoch;
}

void mark_written(Cell &cell) {
    cell.written = true;
    cell.writer = block->current->index;
    cell.write_epoch = block->epoch;
    cell.write_warp_epoch = block->warps[cell.writer / 32].epoch;
}

} // namespace

Registration::Registration(const char *name, size_t params_size, unsigned max_threads, Entry entry) {
    kernels()[name] = {params_size, max_threads, entry};
}

Dim thread_index() { return {block->current->index, 0, 0}; }
Dim block_index() { return block->index; }
Dim block_size() { return {block->threads, 1, 1}; }
Dim grid_size() { return block->grid; }

void report(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fail(block->current->index, text);
    for (;;) {
        to_scheduler();
    }
}

void sync_threads() {
    block->current->state = State::AtBarrier;
    to_scheduler();
}

const unsigned char *exchange(const char *kind, unsigned mask, const void *mine, size_t size) {
    if (mask != 0xffffffffu) {
        report("%s with mask 0x%08x: collectives are of whole warps here", kind, mask);
    }
    Fiber &fiber = *block->current;
    Warp &warp = block->warps[fiber.index / 32];
    const unsigned lane = fiber.index % 32;
    if (warp.arrived != 0 && strcmp(warp.kind, kind) != 0) {
        report("at %s while other lanes of its warp are at %s", kind, warp.kind);
    }
    unsigned char *slots = warp.slots[fiber.phase];
    fiber.phase ^= 1;
    if (size > 0) {
        memcpy(slots + lane * SLOT, mine, size);
    }
    warp.kind = kind;
    warp.arrived |= 1u << lane;
    if (warp.arrived == 0xffffffffu) {
        warp.arrived = 0;
        ++warp.epoch;
        const unsigned first = fiber.index - lane;
        for (unsigned i = first; i < first + 32; ++i) {
            block->fibers[i].state = State::Ready;
        }
    } else {
        fiber.state = State::AtCollective;
        to_scheduler();
    }
    return slots;
}

void read_shared(unsigned offset, void *to, size_t size) {
    Cell *cells = locate(offset, size, "read");
    for (size_t i = 0; i < size / 2; ++i) {
        Cell &cell = cells[i];
        if (!cell.written) {
            report("read of shared memory at byte %u, which nothing wrote", offset);
        }
        if (unordered(cell.writer, cell.write_epoch, cell.write_warp_epoch)) {
            report("read of shared memory at byte %u, which thread %u wrote without a barrier in between", offset,
                   cell.writer);
        }
        mark_read(cell);
    }
    memcpy(to, &block->shared[offset], size);
}

void write_shared(unsigned offset, const void *from, size_t size) {
    Cell *cells = locate(offset, size, "write");
    for (size_t i = 0; i < size / 2; ++i) {
        Cell &cell = cells[i];
        if (cell.written && unordered(cell.writer, cell.write_epoch, cell.write_warp_epoch)) {
            report("write to shared memory at byte %u, which thread %u wrote without a barrier in between", offset,
                   cell.writer);
        }
        if (cell.read && unordered(cell.reader, cell.read_epoch, cell.read_warp_epoch)) {
            report("write to shared memory at byte %u, which another thread read without a barrier in between", offset);
        }
        mark_written(cell);
    }
    memcpy(&block->shared[offset], from, size);
}

void update_shared(unsigned offset, void *value, size_t size, void (*combine)(void *value, const void *operand),
                   const void *operand) {
    // Atomics of several threads on one word are ordered by themselves: only who wrote it first is checked.
    Cell *cells = locate(offset, size, "atomic operation");
    for (size_t i = 0; i < size / 2; ++i) {
        if (!cells[i].written) {
            report("atomic operation on shared memory at byte %u, which nothing wrote", offset);
        }
        mark_written(cells[i]);
    }
    memcpy(value, &block->shared[offset], size);
    unsigned char result[16];
    memcpy(result, value, size);
    combine(result, operand);
    memcpy(&block->shared[offset], result, size);
}

void async_copy(unsigned to, const void *from, unsigned bytes) {
    if (to % 16 != 0) {
        report("asynchronous copy to byte %u of shared memory, not a multiple of 16", to);
    }
    if (bytes > 0) {
        check_aligned(from, 16);
    }
    block->current->open.push_back({to, from, bytes});
}

void async_commit() {
    Fiber &fiber = *block->current;
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void async_wait(int pending) {
    Fiber &fiber = *block->current;
    while (fiber.groups.size() > static_cast<size_t>(pending)) {
        for (const PendingCopy &copy : fiber.groups.front()) {
            unsigned char data[16] = {};
            memcpy(data, copy.from, copy.bytes);
            count_bytes(copy.bytes);
            write_shared(copy.to, data, sizeof(data));
        }
        fiber.groups.erase(fiber.groups.begin());
    }
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *slots = exchange("mma", 0xffffffffu, mine, sizeof(mine));
    const unsigned lane = block->current->index % 32;
    // Element (row, k) of A: lane 4·(row mod 8) + (k mod 8) / 2, register (row / 8) + 2·(k / 8), half k mod 2.
    const auto element = [&](unsigned owner, unsigned index, unsigned half) {
        uint32_t word;
        memcpy(&word, slots + owner * SLOT + 4 * index, 4);
        return to_float(bf16{static_cast<uint16_t>(word >> (16 * half))});
    };
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        double sum = d[i]; // products of bf16 are exact in float; the GPU's own order of summation is not documented
        for (unsigned k = 0; k < 16; ++k) {
            const float x = element(4 * (row % 8) + k % 8 / 2, row / 8 + 2 * (k / 8), k % 2);
            const float y = element(4 * column + k % 8 / 2, 4 + k / 8, k % 2);
            sum += static_cast<double>(x) * y;
        }
        d[i] = static_cast<float>(sum);
    }
}

void ldmatrix(uint32_t (&r)[4], unsigned row, bool transposed) {
    if (row % 16 != 0) {
        report("ldmatrix of a row at byte %u of shared memory, not a multiple of 16", row);
    }
    const unsigned char *slots = exchange("ldmatrix", 0xffffffffu, &row, sizeof(row));
    const unsigned lane = block->current->index % 32;
    for (unsigned i = 0; i < 4; ++i) {
        uint16_t pair[2];
        for (unsigned j = 0; j < 2; ++j) {
            const unsigned line = transposed ? lane % 4 * 2 + j : lane / 4;
            const unsigned column = transposed ? lane / 4 : lane % 4 * 2 + j;
            unsigned address;
            memcpy(&address, slots + (8 * i + line) * SLOT, sizeof(address));
            read_shared(address + 2 * column, &pair[j], 2);
        }
        r[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
    }
}

void check_aligned(const void *address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
        report("access of %zu bytes at address %p, not a multiple of that", bytes, address);
    }
}

void count_bytes(size_t bytes) { block->bytes_moved += bytes; }

} // namespace emulate

// ---- what the Rust side calls ----

using namespace emulate;

extern "C" {

// Memory between guard pages, its end within 16 bytes of the second one. Null where there is none.
void *emberformer_emulate_alloc(size_t bytes) {
    install_fault_handler();
    const size_t inside = rounded(bytes, page());
    unsigned char *base = static_cast<unsigned char *>(
        mmap(nullptr, inside + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED) {
        return nullptr;
    }
    if (inside > 0 && mprotect(base + page(), inside, PROT_READ | PROT_WRITE) != 0) {
        munmap(base, inside + 2 * page());
        return nullptr;
    }
    return base + page() + inside - rounded(bytes, 16);
}

void emberformer_emulate_free(void *address, size_t bytes) {
    const size_t inside = rounded(bytes, page());
    munmap(static_cast<unsigned char *>(address) + rounded(bytes, 16) - inside - page(), inside + 2 * page());
}

// What a kernel's table entry says: bytes of its parameters and most threads a block; false where there is no such kernel.
bool emberformer_emulate_find(const char *name, size_t *params_size, unsigned *max_threads) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        return false;
    }
    *params_size = found->second.params_size;
    *max_threads = found->second.max_threads;
    return true;
}

// Runs blocks first..last of a launch (numbered x fastest). Returns false and a message where a check failed. `moved`
// grows by the bytes that vector accesses and asynchronous copies moved.
bool emberformer_emulate_run(const char *name, const unsigned *grid, unsigned threads, unsigned shared,
                             const void *params, unsigned long long first, unsigned long long last, bool reversed,
                             char *message, size_t message_size, unsigned long long *moved) {
    Block state;
    const auto found = kernels().find(name);
    state.kernel = found->first.c_str();
    state.entry = &found->second;
    state.params = params;
    state.grid = {grid[0], grid[1], grid[2]};
    state.threads = threads;
    state.fibers.resize(threads);
    state.warps.resize(threads / 32);
    block = &state;
    for (unsigned long long i = first; i < last && !state.failed; ++i) {
        state.index = {static_cast<unsigned>(i % grid[0]), static_cast<unsigned>(i / grid[0] % grid[1]),
                       static_cast<unsigned>(i / grid[0] / grid[1])};
        state.begin(shared);
        run_block(reversed);
    }
    block = nullptr;
    *moved += state.bytes_moved;
    if (state.failed) {
        snprintf(message, message_size, "%s", state.message.c_str());
    }
    return !state.failed;
}
}
