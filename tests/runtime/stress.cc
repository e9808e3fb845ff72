// A network in every instruction set, batch and number of threads, from many threads at a time; then mutants of its file, which
// come from the standard input (stress.py): a reason or an answer, and no memory that a file's size does not explain.
//
//     stress FILE HEIGHT WIDTH CHANNELS < mutants: for each its size (8 bytes), whether its checksum is to catch it (1), bytes
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "bnn_runtime.h"
#include "file.h"
#include "instructions.h"
#include "layers.h"

namespace {
std::atomic<size_t> held{0}, most{0};
}

void* operator new(size_t size) {
  void* memory = malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  const size_t all = held += malloc_usable_size(memory);
  for (size_t seen = most; all > seen && !most.compare_exchange_weak(seen, all);) {
  }
  return memory;
}
void* operator new[](size_t size) { return operator new(size); }
void operator delete(void* memory) noexcept {
  if (memory != nullptr) held -= malloc_usable_size(memory);
  free(memory);
}
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory, size_t) noexcept { operator delete(memory); }

namespace {

constexpr int kImages = 5;
thread_local char error[BNN_ERROR];

[[noreturn]] void fail(const std::string& reason) {
  fprintf(stderr, "%s (%s)\n", reason.c_str(), error);
  exit(1);
}

struct Images {
  int64_t height, width, channels;
  std::vector<float> numbers;
  int64_t size() const { return height * width * channels; }
};

std::vector<float> run(const bnn_network* network, const Images& images, int first, int n, int threads) {
  std::vector<float> logits(static_cast<size_t>(n * bnn_classes(network)));
  const float* from = images.numbers.data() + first * images.size();
  if (bnn_run(network, from, n, images.height, images.width, threads, logits.data(), error) != BNN_OK) fail("an image is refused");
  return logits;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> whole(const char* path, const Images& images) {
  std::vector<float> answer;
  std::istringstream sets(bnn_instruction_sets());
  for (std::string set; sets >> set;) {
    bnn_network* network;
    if (bnn_open(path, set.c_str(), &network, error) != BNN_OK) fail("the file is refused");
    const std::vector<float> all = run(network, images, 0, kImages, 1);
    if (answer.empty()) answer = all;
    std::vector<float> one_by_one;
    for (int i = 0; i < kImages; ++i)
      for (const float logit : run(network, images, i, 1, 1 + i % 3)) one_by_one.push_back(logit);
    if (!same(all, one_by_one)) fail(set + ": a batch has other logits than its images");
    std::vector<std::thread> callers;
    std::atomic<int> others{0};
    for (int i = 0; i < 4; ++i)
      callers.emplace_back([&, i] {
        for (int k = 0; k < 3; ++k) others += !same(run(network, images, 0, kImages, 1 + (i + k) % 3), all);
      });
    for (std::thread& caller : callers) caller.join();
    if (others > 0) fail(set + ": another answer beside other threads");
    bnn_close(network);
  }
  return answer;
}

// Whether it is quick to run an altered network: what its layers make of an image stays small.
bool is_small(const std::string& content, const Images& images) {
  bnn::Bytes bytes;
  const size_t first = content.size() < 8 ? content.size() : 8;
  bytes.begin(content.data(), first, content.size());
  bytes.append(content.data() + first, content.size() - first);
  bnn::File file(bytes.view());
  return bnn::network_of(file, bnn::kPortable).expect_fits(images.height, images.width) < 1 << 20;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) fail("expected FILE HEIGHT WIDTH CHANNELS");
  Images images = {atoll(argv[2]), atoll(argv[3]), atoll(argv[4]), {}};
  uint32_t state = 1;
  for (int64_t i = 0; i < kImages * images.size(); ++i) {
    state = state * 1664525 + 1013904223;
    images.numbers.push_back(static_cast<float>(static_cast<int32_t>(state)) / static_cast<float>(1 << 30));
  }
  const std::vector<float> answer = whole(argv[1], images);
  int count = 0, refused = 0;
  size_t worst = 0;
  for (uint64_t size; fread(&size, 1, 8, stdin) == 8; ++count) {
    const int caught = getchar();
    std::string content(size, '\0');
    if (fread(content.data(), 1, size, stdin) != size) fail("a mutant is cut short");
    const size_t before = held;
    most = before;
    bnn_network* network;
    const bnn_status status = bnn_open_memory(content.data(), content.size(), nullptr, &network, error);
    const size_t used = most - before;
    worst = used > worst ? used : worst;
    // The text of a tree and its values, and 32 floats for a word of signs.
    if (used > (48u << 20) + 64 * size) fail("a file of " + std::to_string(size) + " bytes takes " + std::to_string(used));
    if (status == BNN_OK) {
      std::vector<float> logits(static_cast<size_t>(kImages * bnn_classes(network)));
      if (bnn_channels(network) == images.channels && bnn_check(network, images.height, images.width, error) == BNN_OK && is_small(content, images))
        if (bnn_run(network, images.numbers.data(), kImages, images.height, images.width, 1, logits.data(), error) == BNN_OK && caught && !same(logits, answer))
          fail("an altered file gives another answer");
      bnn_close(network);
    } else {
      ++refused;
      if (network != nullptr || strlen(error) < 20) fail("no reason");
    }
    if (held != before) fail("memory is lost");
  }
  printf("%s: %d mutants, %d refused, at most %zu bytes taken to open one\n", argv[1], count, refused, worst);
  return 0;
}
