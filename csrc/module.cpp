// vispec._C: what this build is, and the pure host functions that tests and benchmarks ask.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "build_info.h"  // written by setup.py
#include "common/philox.h"
#include "common/tree_attention.h"
#include "cpu/isa.h"

namespace py = pybind11;

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> out;
  for (std::string word; stream >> word;) out.push_back(word);
  return out;
}

py::object or_none(const std::string& text) { return text.empty() ? py::object(py::none()) : py::str(text); }

py::dict build_info() {
  using namespace py::literals;
  return py::dict("torch"_a = kTorch, "torch_cuda"_a = or_none(kTorchCuda), "compiler"_a = kCompiler, "cuda"_a = kCuda,
                  "cuda_reason"_a = or_none(kCudaReason), "nvcc"_a = or_none(kNvcc),
                  "cuda_archs"_a = words(kCudaArchs));
}

// Looks where the operators' own weak reference is looked up: in the library and in what it was linked to. None: the
// library is not loaded.
std::optional<bool> has_cuda_stream(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (handle == nullptr) return std::nullopt;
  const bool found = dlsym(handle, "aoti_torch_get_current_cuda_stream") != nullptr;
  dlclose(handle);
  return found;
}

const char* cpu_isa() {
  const vispec::cpu::Isa isa = vispec::cpu::isa();
  if (isa == vispec::cpu::Isa::kV4) return "AVX-512";
  return isa == vispec::cpu::Isa::kV3 ? "AVX2" : "baseline";
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  const vispec::PhiloxWords words = vispec::philox({{counter[0], counter[1], counter[2], counter[3]}}, key);
  return {words.word[0], words.word[1], words.word[2], words.word[3]};
}

py::tuple cut_tree_attention(int64_t kv_heads, int rows, int64_t keys) {
  const vispec::cpu::TreeAttentionCut cut = vispec::cpu::cut_tree_attention(kv_heads, rows, keys);
  return py::make_tuple(cut.row_blocks, cut.rows_per_block, cut.splits);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info,
        "What this build is: torch (whose headers were used), torch_cuda, compiler, cuda (are CUDA operators in it), "
        "cuda_reason (why not, or what to know), nvcc, cuda_archs.");
  m.def("has_cuda_stream", &has_cuda_stream, py::arg("library"),
        "Whether the operators' library, if loaded, sees torch's function for the current CUDA stream.");
  m.def("cpu_isa", &cpu_isa, "The instruction set whose loops the CPU operators run on this machine.");
  m.def("philox", &philox, py::arg("counter"), py::arg("key"), "The four words of Philox4x32-10 under a counter.");
  m.def("cut_tree_attention", &cut_tree_attention, py::arg("kv_heads"), py::arg("rows"), py::arg("keys"),
        "How the CPU's tree attention cuts its work: blocks of query rows, rows of a block, splits of the keys.");
}
