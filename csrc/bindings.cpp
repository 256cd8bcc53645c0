// Python to C++: pointers in, dispatch, nothing else. curbench/kernels/ has checked dtypes, shapes and strides.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>

#include "check.h"
#include "cpu/isa.h"
#include "kernels.h"
#include "objects.h"
#include "philox.h"

namespace py = pybind11;

namespace curbench {
namespace {

constexpr int kMaxThreads = 1024;  // OpenMP ends the process when it cannot start as many as it was asked for

// A numpy array, the data_ptr() of a tensor, or None.
template <class T>
T* at(py::handle h) {
  if (h.is_none()) return nullptr;
  if (py::isinstance<py::array>(h)) {
    const void* data = py::reinterpret_borrow<py::array>(h).data();
    return static_cast<T*>(const_cast<void*>(data));
  }
  return reinterpret_cast<T*>(h.cast<uintptr_t>());
}

// Where a call runs: on `threads` CPU threads, or on a stream of a device (device >= 0).
struct Where {
  int device;
  int threads;
  uintptr_t stream;
};

template <class Args, class Result>
Result dispatch(const Args& args, const Where& where, Result (*on_cpu)(const Args&, int),
                Result (*on_cuda)(const Args&, cuda::Queue)) {
  check(1 <= where.threads && where.threads <= kMaxThreads,
        "threads must be in [1, " + std::to_string(kMaxThreads) + "]; got " + std::to_string(where.threads));
  const py::gil_scoped_release release;
  if (where.device < 0) return on_cpu(args, where.threads);
  return on_cuda(args, {where.device, reinterpret_cast<void*>(where.stream)});
}

Groups groups_of(py::handle offset, py::handle order, int64_t size, int64_t count, int64_t slots) {
  check(slots < INT32_MAX, "a call takes fewer than 2^31 slots; got " + std::to_string(slots));
  return {at<int64_t>(offset), at<int64_t>(order), size, count, slots};
}

void bind_group_advantage(py::module_& m) {
  m.def("group_advantage_workspace", &group_advantage_workspace);
  m.def("group_advantage", [](py::handle reward, bool is_double, py::handle std_reward, py::handle offset,
                              py::handle order, int64_t size, int64_t count, int64_t slots, int estimator,
                              int64_t ddof, double eps, int eps_mode, bool singleton_raw, bool skip_nan,
                              py::handle success, py::handle advantage, py::handle n, py::handle mean,
                              py::handle var, py::handle degenerate, py::handle abs_advantage,
                              py::handle success_count, py::handle workspace, py::handle fault,
                              const Where& where) {
    const GroupAdvantage args = {
        at<void>(reward), is_double, at<void>(std_reward), groups_of(offset, order, size, count, slots),
        static_cast<Estimator>(estimator), ddof, eps, static_cast<EpsMode>(eps_mode), singleton_raw, skip_nan,
        at<uint8_t>(success), at<void>(advantage), at<int64_t>(n), at<double>(mean), at<double>(var),
        at<uint8_t>(degenerate), at<double>(abs_advantage), at<int64_t>(success_count), at<double>(workspace),
        at<int64_t>(fault)};
    dispatch(args, where, cpu::group_advantage, cuda::group_advantage);
  });
}

py::array_t<int64_t> array_of(const std::vector<int64_t>& value) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(value.size()), value.data());
}

// A contiguous numpy array, a list or a tuple; numbers have 8 bytes.
py::tuple identify_ids(const py::object& id) {
  Identified found;
  const bool array = py::isinstance<py::array>(id);
  const char kind = array ? py::reinterpret_borrow<py::array>(id).dtype().kind() : 'O';
  if (kind == 'O') {
    found = identify_objects(py::reinterpret_borrow<py::sequence>(id));
  } else {
    const auto rows = py::reinterpret_borrow<py::array>(id);
    const py::gil_scoped_release release;
    if (kind == 'i' || kind == 'u')
      found = identify_words(static_cast<const int64_t*>(rows.data()), rows.size());
    else
      found = identify_bytes(static_cast<const char*>(rows.data()), rows.itemsize(), rows.size());
  }
  const py::object order = found.order.empty() ? py::object(py::none()) : array_of(found.order);
  return py::make_tuple(array_of(found.first), array_of(found.offset), order);
}

void bind_policy_improvement(py::module_& m) {
  m.def("policy_improvement", [](py::handle new_logprob, bool new_bf16, int64_t new_stride, py::handle old_logprob,
                                 bool old_bf16, int64_t old_stride, int64_t tokens, py::handle mask, bool wide_mask,
                                 int64_t mask_stride, py::handle length, py::handle bound, py::handle advantage,
                                 py::handle offset, py::handle order, int64_t size, int64_t count, int64_t slots,
                                 int kind, double clip_low, double clip_high, bool surrogate, py::handle utility,
                                 py::handle ratio, py::handle token_count, py::handle fault, const Where& where) {
    check(!bound.is_none() || tokens < INT32_MAX,
          "a row holds fewer than 2^31 tokens; got " + std::to_string(tokens));
    const PolicyImprovement args = {
        at<void>(new_logprob), new_bf16, new_stride, at<void>(old_logprob), old_bf16, old_stride, tokens,
        at<void>(mask), wide_mask, mask_stride, at<int64_t>(length), at<int64_t>(bound), at<double>(advantage),
        groups_of(offset, order, size, count, slots), static_cast<RatioKind>(kind), clip_low, clip_high, surrogate,
        at<double>(utility), at<double>(ratio), at<int64_t>(token_count), at<int64_t>(fault)};
    dispatch(args, where, cpu::policy_improvement, cuda::policy_improvement);
  });
}

void bind_score_bank(py::module_& m) {
  m.def("score_bank_workspace", &score_bank_workspace);
  m.def("score_bank", [](py::handle feature, int dtype, int64_t stride, int64_t problems, int64_t features,
                         int64_t hidden, int activation, py::handle weight, py::handle fixed, double unit,
                         py::handle layer, py::handle layer_bias, double bias, py::handle row_scale,
                         double temperature, py::handle prior, py::handle candidate, int64_t rows, int64_t count,
                         int design, double floor, double nucleus, uint64_t seed, uint32_t step, py::handle score,
                         py::handle kept, py::handle problem, py::handle propensity, py::handle probability,
                         py::handle workspace, py::handle fault, const Where& where) {
    const ScoreBank args = {
        at<void>(feature), static_cast<Dtype>(dtype), stride, problems, features, hidden,
        static_cast<Activation>(activation), at<float>(weight), at<int32_t>(fixed), unit, at<float>(layer),
        at<float>(layer_bias), bias, at<float>(row_scale), temperature, at<float>(prior), at<int64_t>(candidate), rows,
        count, static_cast<Design>(design), floor, nucleus, seed, step, at<float>(score), at<float>(kept),
        at<int64_t>(problem), at<double>(propensity), at<double>(probability), at<double>(workspace),
        at<int64_t>(fault)};
    const BankTotals totals = dispatch(args, where, cpu::score_bank, cuda::score_bank);
    return py::make_tuple(totals.log_normaliser, totals.mass, totals.log_time, totals.reachable);
  });
}

void bind_draw(py::module_& m) {
  m.def("draw", [](py::handle score, py::handle candidate, int64_t rows, int64_t count, int design, double floor,
                   double nucleus, uint64_t seed, uint32_t step, py::handle kept, py::handle problem,
                   py::handle propensity, py::handle probability, py::handle workspace, py::handle fault,
                   const Where& where) {
    ScoreBank args = {};
    args.score = at<float>(score);
    args.candidate = at<int64_t>(candidate);
    args.rows = rows;
    args.count = count;
    args.design = static_cast<Design>(design);
    args.floor = floor;
    args.nucleus = nucleus;
    args.seed = seed;
    args.step = step;
    args.kept = at<float>(kept);
    args.problem = at<int64_t>(problem);
    args.propensity = at<double>(propensity);
    args.probability = at<double>(probability);
    args.workspace = at<double>(workspace);
    args.fault = at<int64_t>(fault);
    const BankTotals totals = dispatch(args, where, cpu::score_bank, cuda::score_bank);
    return py::make_tuple(totals.log_normaliser, totals.mass, totals.log_time, totals.reachable);
  });
}

void bind_mirror_step(py::module_& m) {
  m.def("mirror_step_workspace", &mirror_step_workspace);
  m.def("mirror_step", [](py::handle probability, int64_t arms, py::handle arm, py::handle loss, int64_t slots,
                          double eta, double floor, double share, py::handle out, py::handle workspace,
                          py::handle fault, const Where& where) {
    const MirrorStep args = {
        at<double>(probability), arms, at<int64_t>(arm), at<double>(loss), slots, eta, floor, share, at<double>(out),
        at<double>(workspace), at<int64_t>(fault)};
    return dispatch(args, where, cpu::mirror_step, cuda::mirror_step);
  });
}

void bind_mirror_tree(py::module_& m) {
  const auto tree = [](py::handle state, int64_t arms) { return MirrorTree{arms, at<double>(state)}; };
  m.def("mirror_tree_size", &cpu::mirror_tree_size);
  m.def("mirror_tree_build", [=](py::handle state, int64_t arms, py::handle probability, py::handle fault,
                                 int threads) {
    const MirrorTree args = tree(state, arms);
    const double* start = at<double>(probability);
    int64_t* wrong = at<int64_t>(fault);
    const py::gil_scoped_release release;
    return cpu::mirror_tree_build(args, start, wrong, threads);
  });
  m.def("mirror_tree_step", [=](py::handle state, int64_t arms, py::handle arm, py::handle loss, int64_t slots,
                                double eta, double floor, double share, py::handle id, py::handle value,
                                py::handle fault, int threads) {
    check(slots == 0 || arms <= INT64_MAX / 2 / slots, "arms times slots must stay below 2^62");
    const MirrorTreeStep args = {tree(state, arms), at<int64_t>(arm), at<double>(loss), slots, eta, floor, share,
                                 at<int64_t>(id), at<double>(value), at<int64_t>(fault)};
    const py::gil_scoped_release release;
    return cpu::mirror_tree_step(args, threads);
  });
  m.def("mirror_tree_draw", [=](py::handle state, int64_t arms, int64_t count, int design, double mix, uint64_t seed,
                                uint32_t step, py::handle arm, py::handle propensity, py::handle probability,
                                py::handle id, py::handle value) {
    check(arms <= INT64_MAX / 2 / count, "arms times count must stay below 2^62");
    const MirrorTreeDraw args = {tree(state, arms), count, static_cast<Design>(design), mix, seed, step,
                                 at<int64_t>(arm), at<double>(propensity), at<double>(probability), at<int64_t>(id),
                                 at<double>(value)};
    const py::gil_scoped_release release;
    return cpu::mirror_tree_draw(args);
  });
  m.def("mirror_tree_read", [=](py::handle state, int64_t arms, py::handle arm, int64_t n, py::handle probability,
                                py::handle fault) {
    cpu::mirror_tree_read(tree(state, arms), at<int64_t>(arm), n, at<double>(probability), at<int64_t>(fault));
  });
  m.def("mirror_tree_settle", [=](py::handle state, int64_t arms, int threads) {
    const MirrorTree args = tree(state, arms);
    const py::gil_scoped_release release;
    cpu::mirror_tree_settle(args, threads);
  });
}

// setup.py looks for it in the file, so it must be there in one piece.
[[gnu::used]] const char kBuildNote[] = CURBENCH_CUDA_NOTE;

py::dict build_info() {
  py::dict info;
  info["kernels"] = "version " CURBENCH_VERSION ", compiled by " __VERSION__;
  info["build"] = kBuildNote;
  return info;
}

std::pair<int, std::string> cuda_status() {
  std::string reason;
  const int count = cuda::device_count(&reason);
  return {count, reason};
}

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512"};

// Doors for the tests and the benchmarks.
void bind_doors(py::module_& m) {
  m.def("philox4x32", [](uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
    const Words r = philox4x32({{c0, c1, c2, c3}}, k0, k1);
    return py::make_tuple(r.w[0], r.w[1], r.w[2], r.w[3]);
  });
  m.def("uniform", &uniform);
  m.def("isa", [] { return kIsaNames[static_cast<int>(cpu::isa())]; });
  m.def("use_isa", [](const std::string& name) {
    for (int i = 0; i < 3; ++i)
      if (name == kIsaNames[i]) return cpu::use_isa(static_cast<cpu::Isa>(i));
    throw std::invalid_argument("an instruction set is one of portable, avx2, avx512; got " + name);
  });
  m.def("set_grid_limit", [](int64_t blocks) {
    check(0 <= blocks && blocks <= INT32_MAX, "a grid limit must be in [0, 2^31); got " + std::to_string(blocks));
    cuda::set_grid_limit(blocks);
  });
  m.def("read_words", [](py::handle word, int64_t count) { return cpu::read_words(at<uint64_t>(word), count); });
  m.def("multiply_add", &cpu::multiply_add);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::class_<Where>(m, "Where").def(py::init<int, int, uintptr_t>());
  bind_group_advantage(m);
  m.def("identify", &identify_ids);
  bind_policy_improvement(m);
  bind_score_bank(m);
  bind_draw(m);
  bind_mirror_step(m);
  bind_mirror_tree(m);
  bind_doors(m);
  m.def("build_info", &build_info);
  m.def("cuda_status", &cuda_status);
}

}  // namespace curbench
