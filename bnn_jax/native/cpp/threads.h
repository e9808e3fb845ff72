// The runtime's own threads: as many as a call was told to take, less the one that calls.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "layers.h"
#include "products.h"

namespace bnn {

class Threads : public Pool {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : helpers_) thread.join();
  }

  // So many threads in all from now on; fewer where the system gives no more.
  void take(int64_t threads) {
    wanted_ = threads;
    try {
      while (static_cast<int64_t>(helpers_.size()) < threads - 1) helpers_.emplace_back([this] { help(); });
    } catch (const std::system_error&) {
      wanted_ = static_cast<int64_t>(helpers_.size()) + 1;
    }
  }

  int64_t threads() const override { return wanted_; }

  // Whether this process is a fork of the one that made them: then they run in the other, and can be neither used nor joined.
  bool inherited() const { return owner_ != getpid(); }

  void schedule(std::function<void()> work) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_.push_back(std::move(work));
    }
    wake_.notify_one();
  }

 private:
  void help() {
    const Flushing flushing;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ending_ || !work_.empty(); });
      if (ending_) return;
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> work_;
  std::vector<std::thread> helpers_;
  int64_t wanted_ = 1;
  const pid_t owner_ = getpid();
  bool ending_ = false;
};

}  // namespace bnn
