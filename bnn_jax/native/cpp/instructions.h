// The instruction sets that are compiled in, and which of them this processor has.
#pragma once

#include <string>
#include <string_view>

#include "kernels.h"

namespace bnn {

struct Named {
  const char* name;
  const Kernels* kernels;
  bool (*there)();
};

// The widest first. `there` may only ask, for it runs on every processor.
inline const Named kAll[] = {
#if defined(__x86_64__)
    {"avx512", &kAvx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vpopcntdq");
     }},
    {"avx2", &kAvx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#elif defined(__aarch64__)
    {"neon", &kNeon, [] { return true; }},
#endif
    {"portable", &kPortable, [] { return true; }},
};

// The set of this name, or nullptr where the processor lacks it; an empty name: the widest.
inline const Named* instruction_set(std::string_view name) {
  for (const Named& set : kAll)
    if ((name.empty() || name == set.name) && set.there()) return &set;
  return nullptr;
}

// The names of those that are there, widest first, separated by `between`.
inline std::string instruction_sets(const char* between) {
  std::string all;
  for (const Named& set : kAll)
    if (set.there()) all += (all.empty() ? "" : between) + std::string(set.name);
  return all;
}

}  // namespace bnn
