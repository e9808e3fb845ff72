// The C interface (bnn_runtime.h): what C++ throws becomes a status and a text here.
#include "bnn_runtime.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "file.h"
#include "layers.h"
#include "threads.h"

namespace {

using bnn::Bytes;
using bnn::Refused;

struct Unreadable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Images computed at a time: so many that the largest map of all has about 16 MiB.
constexpr int64_t kNumbersAtOnce = 1 << 22;
constexpr int kMostThreads = 1024;

std::string reason_of(int error) { return std::error_code(error, std::generic_category()).message(); }

Bytes read(const char* path) {
  if (path == nullptr) throw Refused("path: got NULL, expected the path of a file");
  struct Closing {
    void operator()(FILE* file) const { fclose(file); }
  };
  const std::unique_ptr<FILE, Closing> file(fopen(path, "rb"));
  if (file == nullptr) throw Unreadable(std::string(path) + " cannot be opened: " + reason_of(errno));
  // How large it is, where it says: a first guess, for a pipe says nothing.
  long size = fseek(file.get(), 0, SEEK_END) == 0 ? ftell(file.get()) : 0;
  if (size < 0 || size > (1L << 30)) size = 0;
  rewind(file.get());
  Bytes bytes;
  std::vector<char> some(1 << 16);
  size_t n = fread(some.data(), 1, 8, file.get());
  bytes.begin(some.data(), n, static_cast<size_t>(size));
  while (n > 0 && (n = fread(some.data(), 1, some.size(), file.get())) > 0) bytes.append(some.data(), n);
  if (ferror(file.get())) throw Unreadable(std::string(path) + " cannot be read: " + reason_of(errno));
  return bytes;
}

// What the preprocessing states that a network needs: sizes, names, and how a byte becomes a number.
struct Preprocessing {
  int64_t height = 0, width = 0;
  std::vector<std::string> classes;
  // (256, channels); empty, and why, where bytes cannot be normalized.
  std::vector<float> table;
  std::string missing = "the file does not say how images are normalized; give floats, prepared as in training";

  void read(const std::string& text, int64_t channels) {
    const bnn::Json json = bnn::Json::parse(text, bnn::kMostValues);
    const bnn::Json *shape = json.find("input_shape"), *names = json.find("classes"), *how = json.find("normalisation");
    if (shape == nullptr || shape->items.size() != 3) throw Refused("input_shape is missing");
    const int64_t h = shape->items[0].integer("input_shape", 1, bnn::kMostSide), w = shape->items[1].integer("input_shape", 1, bnn::kMostSide);
    // Known from here on: the layers have to fit, whatever else is wrong.
    height = h, width = w;
    if (shape->items[2].integer("input_shape", 1, bnn::kMostExtent) != channels) throw Refused("input_shape has other channels than the network");
    if (how == nullptr) throw Refused("normalisation is missing");
    normalize(*how, channels);
    for (size_t i = 0; names != nullptr && i < names->items.size(); ++i) classes.push_back(names->items[i].text);
  }

 private:
  static std::vector<double> numbers(const bnn::Json& how, const char* field, int64_t channels) {
    const bnn::Json* list = how.find(field);
    if (list == nullptr || static_cast<int64_t>(list->items.size()) != channels) throw Refused(std::string(field) + " has not one number a channel");
    std::vector<double> found;
    for (const bnn::Json& item : list->items) found.push_back(item.number(field));
    return found;
  }

  // In float32, as bnn_jax.data.augmentations computes it.
  void normalize(const bnn::Json& how, int64_t channels) {
    const bnn::Json* kind = how.find("kind");
    const std::string name = kind == nullptr ? "" : kind->text;
    std::vector<double> mean, std;
    if (name == "Standardize") mean = numbers(how, "mean", channels), std = numbers(how, "std", channels);
    else if (name == "SubtractMean") mean = numbers(how, "mean", channels);
    else if (name != "PlusMinusOne") throw Refused("normalisation '" + name + "' is unknown to this library");
    std::vector<float> all(static_cast<size_t>(256 * channels));
    for (int byte = 0; byte < 256; ++byte)
      for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
        const float x = static_cast<float>(byte);
        float y;
        if (name == "Standardize") {
          const float scaled = x / 255.f, centered = scaled - static_cast<float>(mean[c]);
          y = centered / static_cast<float>(std[c]);
        } else if (name == "SubtractMean") {
          y = x - static_cast<float>(255 * mean[c]);
        } else {
          const float scaled = x / 127.5f;
          y = scaled - 1.f;
        }
        if (!std::isfinite(y)) throw Refused("normalisation gives numbers that are not finite");
        all[static_cast<size_t>(byte) * static_cast<size_t>(channels) + c] = y;
      }
    table = std::move(all);
  }
};

// What a call needs for itself; it is kept for the next one.
struct Workspace {
  bnn::Memory memory;
  bnn::Threads threads;
};

// A workspace from before a fork is left as it is: its threads run in the other process.
struct Discard {
  void operator()(Workspace* workspace) const {
    if (!workspace->threads.inherited()) delete workspace;
  }
};
using Own = std::unique_ptr<Workspace, Discard>;

}  // namespace

struct bnn_network {
  Bytes bytes;
  const bnn::Named* set = nullptr;
  bnn::Network network;
  std::string preprocessing;
  Preprocessing prepared;
  mutable std::mutex mutex;
  mutable std::vector<Own> idle;
};

namespace {

void write(char* error, const char* reason) {
  if (error != nullptr) snprintf(error, BNN_ERROR, "%s", reason);
}

// Calls work, and gives what it throws as a status and a text.
template <typename Work>
bnn_status guarded(char* error, const Work& work) noexcept {
  try {
    if (error != nullptr) *error = '\0';
    work();
    return BNN_OK;
  } catch (const Unreadable& reason) {
    write(error, reason.what());
    return BNN_UNREADABLE;
  } catch (const std::bad_alloc&) {
    write(error, "there is not enough memory");
    return BNN_NO_MEMORY;
  } catch (const std::exception& reason) {
    write(error, reason.what());
    return BNN_REFUSED;
  }
}

void open(Bytes bytes, const std::string& name, const char* instructions, bnn_network** network) {
  const uint16_t order = 1;
  if (*reinterpret_cast<const char*>(&order) != 1) throw Refused("this processor is big-endian; the library is for little-endian ones");
  std::string wanted = instructions == nullptr ? "" : instructions;
  const char* chosen = getenv("BNN_INSTRUCTIONS");
  if (wanted.empty() && chosen != nullptr) wanted = chosen;
  auto made = std::make_unique<bnn_network>();
  made->set = bnn::instruction_set(wanted);
  if (made->set == nullptr) throw Refused("instruction set: got '" + wanted + "', expected one of " + bnn::instruction_sets(", "));
  made->bytes = std::move(bytes);
  try {
    bnn::File file(made->bytes.view());
    made->network = bnn::network_of(file, *made->set->kernels);
    made->preprocessing = file.preprocessing();
    Preprocessing& prepared = made->prepared;
    if (!made->preprocessing.empty()) try {
        prepared.read(made->preprocessing, made->network.channels);
      } catch (const Refused& reason) {
        prepared.missing = std::string("the file's preprocessing cannot be used: ") + reason.what() + "; give floats, prepared as in training";
      }
    made->network.expect_fits(prepared.height > 0 ? prepared.height : bnn::kUnknown, prepared.height > 0 ? prepared.width : bnn::kUnknown);
  } catch (const Refused& reason) {
    throw Refused(name + ": " + reason.what());
  }
  *network = made.release();
}

// Numbers of the largest map of one image. Throws Refused where images do not fit.
int64_t measured(const bnn_network& network, int64_t height, int64_t width) {
  constexpr double kMostNumbers = 1e12;  // So that no product of sizes goes beyond 64 bits.
  if (height < 1 || width < 1 || static_cast<double>(height) * static_cast<double>(width) * static_cast<double>(network.network.channels) > kMostNumbers)
    throw Refused("images: got height " + std::to_string(height) + " and width " + std::to_string(width) + ", expected at least 1, and at most 10^12 numbers");
  return network.network.expect_fits(height, width);
}

template <typename Number>
void run(const bnn_network& network, const Number* images, int64_t n, int64_t height, int64_t width, int threads,
         float* logits) {
  constexpr bool kBytes = sizeof(Number) == 1;
  if (images == nullptr || logits == nullptr) throw Refused("images or logits: got NULL");
  if (n < 1 || n > INT64_C(1) << 40) throw Refused("images: got a batch of " + std::to_string(n) + ", expected at least one image, and at most 2^40");
  if (threads < 0 || threads > kMostThreads) throw Refused("threads: got " + std::to_string(threads) + ", expected from 0 to " + std::to_string(kMostThreads));
  if (kBytes && network.prepared.table.empty()) throw Refused(network.prepared.missing);
  const int64_t largest = measured(network, height, width), at_once = std::max<int64_t>(1, std::min(n, kNumbersAtOnce / largest));
  if (threads == 0) threads = static_cast<int>(std::min(std::max(1u, std::thread::hardware_concurrency()), static_cast<unsigned>(kMostThreads)));

  Own own;
  {
    const std::lock_guard<std::mutex> lock(network.mutex);
    if (!network.idle.empty()) own = std::move(network.idle.back()), network.idle.pop_back();
  }
  if (own == nullptr || own->threads.inherited()) own = Own(new Workspace);
  own->threads.take(threads);
  const bnn::Flushing flushing;
  const bnn::Context context = {*network.set->kernels, own->threads, own->memory};
  const bnn::Shape shape = {false, height, width, network.network.channels};
  const int64_t size = shape.numbers(), classes = network.network.classes;
  for (int64_t first = 0; first < n; first += at_once) {
    const int64_t some = std::min(at_once, n - first);
    bnn::Value x = {some, shape, false, images + first * size, {}};
    if constexpr (kBytes) {
      bnn::Memory::Block block = own->memory.numbers(some * size);
      float* to = block.as<float>();
      const float* table = network.prepared.table.data();
      const Number* from = images + first * size;
      for (int64_t i = 0; i < some * size; i += shape.channels)
        for (int64_t c = 0; c < shape.channels; ++c) to[i + c] = table[from[i + c] * shape.channels + c];
      x = {some, shape, false, to, std::move(block)};
    }
    const bnn::Value y = network.network.body->run(context, std::move(x));
    memcpy(logits + first * classes, y.floats(), static_cast<size_t>(some * classes) * sizeof(float));
    if constexpr (!kBytes)
      for (int64_t i = first; i < first + some; ++i)
        if (!bnn::all_finite(images + i * size, size)) std::fill_n(logits + i * classes, classes, std::numeric_limits<float>::quiet_NaN());
  }
  const std::lock_guard<std::mutex> lock(network.mutex);
  network.idle.push_back(std::move(own));
}

}  // namespace

extern "C" {

bnn_status bnn_open(const char* path, const char* instructions, bnn_network** network, char* error) {
  return guarded(error, [&] {
    if (network == nullptr) throw Refused("network: got NULL");
    *network = nullptr;
    Bytes bytes = read(path);  // First, for it refuses NULL.
    open(std::move(bytes), path, instructions, network);
  });
}

bnn_status bnn_open_memory(const void* bytes, size_t size, const char* instructions, bnn_network** network, char* error) {
  return guarded(error, [&] {
    if (network == nullptr || bytes == nullptr) throw Refused("network or bytes: got NULL");
    *network = nullptr;
    const char* from = static_cast<const char*>(bytes);
    Bytes copy;
    const size_t first = std::min<size_t>(8, size);
    copy.begin(from, first, size);
    copy.append(from + first, size - first);
    open(std::move(copy), "these bytes", instructions, network);
  });
}

void bnn_close(bnn_network* network) { delete network; }

int64_t bnn_channels(const bnn_network* network) { return network->network.channels; }
int64_t bnn_classes(const bnn_network* network) { return network->network.classes; }

void bnn_input_shape(const bnn_network* network, int64_t shape[3]) {
  shape[0] = network->prepared.height, shape[1] = network->prepared.width, shape[2] = network->network.channels;
}

const char* bnn_preprocessing(const bnn_network* network) {
  return network->preprocessing.empty() ? nullptr : network->preprocessing.c_str();
}

const char* bnn_class_name(const bnn_network* network, int64_t which) {
  const std::vector<std::string>& names = network->prepared.classes;
  return which < 0 || which >= static_cast<int64_t>(names.size()) ? nullptr : names[static_cast<size_t>(which)].c_str();
}

const char* bnn_instructions(const bnn_network* network) { return network->set->name; }

const char* bnn_instruction_sets() {
  static const std::string names = bnn::instruction_sets(" ");
  return names.c_str();
}

const char* bnn_sources() { return BNN_SOURCES; }

bnn_status bnn_check(const bnn_network* network, int64_t height, int64_t width, char* error) {
  return guarded(error, [&] { measured(*network, height, width); });
}

bnn_status bnn_run(const bnn_network* network, const float* images, int64_t n, int64_t height, int64_t width, int threads,
                   float* logits, char* error) {
  return guarded(error, [&] { run(*network, images, n, height, width, threads, logits); });
}

bnn_status bnn_run_bytes(const bnn_network* network, const uint8_t* images, int64_t n, int64_t height, int64_t width,
                         int threads, float* logits, char* error) {
  return guarded(error, [&] { run(*network, images, n, height, width, threads, logits); });
}
}
