#include "pool.h"

#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace polyllama {
namespace {

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#else
    std::this_thread::yield();
#endif
}

constexpr int kSpinsBetweenPasses = 40000;  // about a millisecond: what lies between two tokens
constexpr int kSpinsAtBarrier = 4000;       // then others may have the processor

// Threads that are made meanwhile take no signals: Ctrl-C is for the thread that may be waiting for something else.
class WithoutSignals {
   public:
#if defined(__unix__) || defined(__APPLE__)
    WithoutSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

   private:
    sigset_t before_;
#else
    WithoutSignals() {}
#endif
};

class Pool {
   public:
    void run(size_t threads, const std::function<void(size_t)>& job) {
        const std::lock_guard<std::mutex> one(mutex_);
        while (workers_ + 1 < threads) start();
        job_ = &job;
        threads_ = threads;
        busy_.store(workers_, std::memory_order_relaxed);
        generation_.fetch_add(1, std::memory_order_release);
        generation_.notify_all();
        job(0);
        for (int spins = 0; busy_.load(std::memory_order_acquire); ++spins) {
            spins < kSpinsAtBarrier ? pause() : std::this_thread::yield();
        }
        job_ = nullptr;
    }

   private:
    void start() {
        const WithoutSignals meanwhile;
        const size_t index = workers_ + 1;
        const uint32_t seen = generation_.load(std::memory_order_relaxed);
        std::thread([this, index, seen] { work(index, seen); }).detach();
        ++workers_;  // not before: where no thread can be started, nobody is waited for
    }

    void work(size_t index, uint32_t seen) {
        for (;;) {
            for (int i = 0; i < kSpinsBetweenPasses; ++i) {
                if (generation_.load(std::memory_order_acquire) != seen) break;
                pause();
            }
            generation_.wait(seen, std::memory_order_acquire);
            seen = generation_.load(std::memory_order_acquire);
            if (index < threads_) (*job_)(index);
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex mutex_;
    size_t workers_ = 0;
    const std::function<void(size_t)>* job_ = nullptr;
    size_t threads_ = 0;
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<size_t> busy_{0};
};

// Never destroyed: threads may still sleep in it when the process ends.
std::atomic<Pool*> pool{nullptr};
std::atomic<uint32_t> generation{1};  // of processes: a forked child is of the next

#if defined(__unix__) || defined(__APPLE__)
// A forked child has the memory but not the threads: it makes its own.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] {
    pool.store(nullptr);
    generation.fetch_add(1);
});
#endif

Pool& the_pool() {
    Pool* found = pool.load(std::memory_order_acquire);
    if (found) return *found;
    Pool* made = new Pool;
    if (pool.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
    delete made;  // somebody else was first, and nothing ran on this one yet
    return *found;
}

}  // namespace

bool PassLock::lock() {
    const uint32_t mine = generation.load();
    uint32_t seen = 0;
    while (!held_.compare_exchange_strong(seen, mine, std::memory_order_acquire)) {
        if (seen != mine) continue;  // held by a thread of the parent: taken over
        held_.wait(seen);
        seen = 0;
    }
    return seen != 0;
}

void PassLock::unlock() {
    held_.store(0, std::memory_order_release);
    held_.notify_one();
}

bool Team::barrier() {
    if (threads_ == 1) {
        dealt_.store(0, std::memory_order_relaxed);
        return !stop_asked_.load(std::memory_order_relaxed);
    }
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        dealt_.store(0, std::memory_order_relaxed);
        stopping_ = stop_asked_.load(std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
    } else {
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
            spins < kSpinsAtBarrier ? pause() : std::this_thread::yield();
        }
    }
    return !stopping_;
}

bool Team::next_run(size_t count, size_t& begin, size_t& end) {
    size_t dealt = dealt_.load(std::memory_order_relaxed);
    while (dealt < count) {
        const size_t share = (count - dealt) / (3 * threads_), size = share ? share : 1;
        if (dealt_.compare_exchange_weak(dealt, dealt + size, std::memory_order_relaxed)) {
            begin = dealt, end = dealt + size;
            return true;
        }
    }
    return false;
}

void run_on_pool(size_t threads, const std::function<void(size_t)>& job) {
    if (threads <= 1) return job(0);  // nobody to wait for, and nobody who would have to
    the_pool().run(threads, job);
}

}  // namespace polyllama
