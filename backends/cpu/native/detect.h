// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "formats.h"

namespace polyllama {

// Those it can run, best first; `portable` is always the last.
std::vector<const Kernels*> usable_kernels();

// The ones called `name`; null when they were not built or this machine cannot run them.
const Kernels* find_kernels(const std::string& name);

}  // namespace polyllama
