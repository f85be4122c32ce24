// Threads that stay: woken once for a whole pass, spinning a while between passes and asleep after that.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace polyllama {

// The threads of one pass. Phases end in a barrier; the tasks of a phase are dealt out as threads ask for them.
class Team {
   public:
    explicit Team(size_t threads) : threads_(threads) {}

    size_t threads() const { return threads_; }

    // Wait for everybody. False when the pass is to end; everybody is then told so at the same barrier.
    bool barrier();

    // The next task below `count`, or count; the barrier after a phase starts over.
    size_t next(size_t count) {
        const size_t task = dealt_.fetch_add(1, std::memory_order_relaxed);
        return task < count ? task : count;
    }

    // A run of tasks that gets shorter towards the end, for tasks that lie side by side in memory. False: none left.
    bool next_run(size_t count, size_t& begin, size_t& end);

    void stop() { stop_asked_.store(true, std::memory_order_relaxed); }

   private:
    const size_t threads_;
    alignas(64) std::atomic<size_t> dealt_{0};
    alignas(64) std::atomic<size_t> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    std::atomic<bool> stop_asked_{false};
    bool stopping_ = false;  // written by the last to arrive, read after the barrier
};

// A lock that a forked child may take even where another thread of its parent held it: that thread is not in the child.
class PassLock {
   public:
    // True where it was taken from a thread that is no longer there, and what it guards may be half done.
    bool lock();
    void unlock();

   private:
    std::atomic<uint32_t> held_{0};  // by which generation of processes; 0: by nobody
};

// Run job(thread) on `threads` threads, the caller being number 0. One pass of several threads at a time in a process: a
// second caller waits, because two sets of spinning threads would only hold each other up.
void run_on_pool(size_t threads, const std::function<void(size_t)>& job);

}  // namespace polyllama
