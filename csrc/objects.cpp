#include "objects.h"

#include <cstring>

namespace py = pybind11;

namespace curbench {
namespace {

constexpr int64_t kAhead = 16;  // objects are scattered in memory, and the hash of a string lies beside its type

struct NotStrings {};

bool same_string(PyObject* a, PyObject* b) {
  if (a == b) return true;
  const Py_ssize_t n = PyUnicode_GET_LENGTH(a);
  return n == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
         std::memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), n * PyUnicode_KIND(a)) == 0;
}

uint64_t hash_of(PyObject* object) {
  const Py_hash_t hash = PyObject_Hash(object);
  if (hash == -1) throw py::error_already_set();
  return mix(static_cast<uint64_t>(hash));
}

// Strings run no code of others, so nothing can change under the loop, and no references are taken.
Identified identify_strings(PyObject* const* id, int64_t slots) {
  const auto hash = [=](int64_t i) {
    if (i + kAhead < slots) __builtin_prefetch(id[i + kAhead]);
    if (id[i] == nullptr || !PyUnicode_CheckExact(id[i])) throw NotStrings{};
    return hash_of(id[i]);
  };
  return identify(
      slots, hash, [=](int64_t i, int64_t j) { return same_string(id[i], id[j]); },
      [=](int64_t i) { return id[i] == id[i - 1]; });
}

Identified identify_any(const py::tuple& id) {
  const auto at = [&](int64_t i) { return PyTuple_GET_ITEM(id.ptr(), i); };
  const auto same = [=](int64_t i, int64_t j) {
    const int equal = PyObject_RichCompareBool(at(i), at(j), Py_EQ);
    if (equal < 0) throw py::error_already_set();
    return equal == 1;
  };
  return identify(
      static_cast<int64_t>(id.size()), [=](int64_t i) { return hash_of(at(i)); }, same,
      [=](int64_t i) { return at(i) == at(i - 1); });
}

}  // namespace

Identified identify_objects(const py::sequence& id) {
  try {
    if (py::isinstance<py::array>(id)) {
      const auto array = py::reinterpret_borrow<py::array>(id);
      return identify_strings(static_cast<PyObject* const*>(array.data()), array.size());
    }
    if (py::isinstance<py::list>(id) || py::isinstance<py::tuple>(id))
      return identify_strings(PySequence_Fast_ITEMS(id.ptr()), PySequence_Fast_GET_SIZE(id.ptr()));
  } catch (const NotStrings&) {
  }
  return identify_any(py::tuple(id));
}

}  // namespace curbench
