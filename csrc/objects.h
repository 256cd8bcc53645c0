// Python objects as ids of groups, such as uuid strings: by the hash and the equality of Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "identify.h"

namespace curbench {

// A list, a tuple, or a contiguous numpy array of objects. Raises what hashing or comparing raises.
Identified identify_objects(const pybind11::sequence& id);

}  // namespace curbench
