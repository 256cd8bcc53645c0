"""Builds ``curbench.kernels._C``: C++ always, CUDA when nvcc is found. Everything else is in pyproject.toml.

CURBENCH_CUDA        auto (default): CUDA if nvcc is found and works; 1: fail without it; 0: C++ only
CURBENCH_CUDA_ARCHS  compute capabilities such as "90;100+PTX"; "+PTX" adds code that later GPUs can compile. Default:
                     those of 80, 90 and 100 that nvcc knows, the last with PTX. When set, the build fails without CUDA
CURBENCH_SANITIZE    sanitizers of gcc to build with, such as "address,undefined"; tests/sanitize.sh runs the tests so
NVCC                 the compiler driver, default the nvcc on PATH, then /usr/local/cuda/bin/nvcc
CURBENCH_BUILD_JOBS  files compiled at once, default the number of cores

torch is not needed, and neither libtorch nor libcuda is linked: tensors cross by pointer, the CUDA runtime is static.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
# Results have the same bits on every machine: no fused multiply-add unless written, no reassociation.
STRICT = ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"]

# A sanitized build keeps its symbols and stops at the first error. gcc then warns of what it cannot see through.
CHECKED = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all", "-Wno-error"]

PROBE = """
#include "cuda/launch.cuh"
struct Nothing { __device__ void operator()(int64_t) const {} };
void probe(const curbench::cuda::Launch& launch) { launch(1, Nothing{}); }
"""


class Unusable(Exception):
    """Why CUDA cannot be built here."""


def setting(name, default, pattern, rule):
    value = os.environ.get(name, default)
    if not re.fullmatch(pattern, value):
        sys.exit(f"{name} must be {rule}; got {value!r}")
    return value


def find_nvcc():
    named = os.environ.get("NVCC")
    if named and not shutil.which(named):
        sys.exit(f"NVCC must name an executable; got {named!r}")
    return shutil.which(named or "nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def ask(command, folder=None):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=folder)
    except OSError as error:
        raise Unusable(f"{command[0]} does not start ({error.strerror})") from error


def default_archs(nvcc):
    listed = ask([nvcc, "--list-gpu-arch"]).stdout.split()
    known = [number for number in ("80", "90", "100") if f"compute_{number}" in listed]
    if not known:
        raise Unusable(f"{nvcc} knows none of the architectures 80, 90 and 100")
    return ";".join(known) + "+PTX"


def compiler(nvcc, archs):
    """The command of every .cu file, and the folder of the static runtime, after compiling a kernel with it.

    The toolkit's folder is what nvcc itself reports, since nvcc may be a wrapper script that lives elsewhere.
    """
    strict = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden,-ffp-contract=off"]
    command = [nvcc, *strict, "-lineinfo", "-Xfatbin", "-compress-all", "--threads", "0", *gencode(archs)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "probe.cu").write_text(PROBE)
        probe = [*command, "--verbose", "-I", CSRC.resolve(), "-c", "probe.cu", "-o", "probe.o"]
        run = ask(probe, folder)
    if run.returncode != 0:
        said = re.search(r"^(?!#).*(?:error|fatal).*$", run.stderr, re.MULTILINE)
        raise Unusable(f"{nvcc} failed with {said[0][:200] if said else f'exit status {run.returncode}'}")
    root = re.search(r"^#\$ TOP=(.+)$", run.stderr, re.MULTILINE)
    if not root:
        raise Unusable(f"{nvcc} --verbose did not report the toolkit's folder")
    return command, static_runtime(Path(root[1].strip()).resolve())


def static_runtime(root):
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        if Path(root, folder, "libcudart_static.a").exists():
            return Path(root, folder)
    raise Unusable(f"libcudart_static.a was not found under {root}")


def gencode(archs):
    """The nvcc flags of a list such as "80;90;100+PTX"."""
    flags = []
    for arch in archs.split(";"):
        number = arch.removesuffix("+PTX")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class Build(build_ext):
    """build_ext that sends .cu files to nvcc, and says in one line what it decided about CUDA."""

    def build_extensions(self):
        wanted = setting("CURBENCH_CUDA", "auto", "auto|0|1", "auto, 0 or 1")
        rule = 'a list such as "80;90;100+PTX"'
        named = setting("CURBENCH_CUDA_ARCHS", "", r"(\d+a?(\+PTX)?(;\d+a?(\+PTX)?)*)?", rule)
        [extension] = self.extensions
        try:
            nvcc = None if wanted == "0" else find_nvcc()
            if nvcc is None:
                raise Unusable("CURBENCH_CUDA=0" if wanted == "0" else "nvcc was not found")
            archs = named or default_archs(nvcc)
            self.add_cuda(extension, *compiler(nvcc, archs))
            note = f"built with CUDA for {archs}, CURBENCH_CUDA={wanted}"
        except Unusable as reason:
            if wanted == "1" or (wanted == "auto" and named):
                asked = "CURBENCH_CUDA=1" if wanted == "1" else "CURBENCH_CUDA_ARCHS"
                sys.exit(f"{asked} asks for CUDA, but {reason}; install the CUDA toolkit, or set CURBENCH_CUDA=0")
            note = f"built without CUDA: {reason}"
            extension.sources.append(str(CSRC / "cuda" / "absent.cpp"))
        sanitizers = setting("CURBENCH_SANITIZE", "", r"([a-z-]+(,[a-z-]+)*)?", 'a list such as "address,undefined"')
        if sanitizers:
            note += f", CURBENCH_SANITIZE={sanitizers}"
            extension.extra_compile_args += [*CHECKED, f"-fsanitize={sanitizers}"]
            extension.extra_link_args = ["-fopenmp", f"-fsanitize={sanitizers}"]
        print(f"curbench.kernels: {note}")
        extension.define_macros.append(("CURBENCH_CUDA_NOTE", json.dumps(note)))
        built = Path(self.get_ext_fullpath(extension.name))  # setuptools looks at its age only, not at this decision
        held = built.read_bytes() if built.exists() else b""
        if note.encode() not in held or (b"CURBENCH_SANITIZE=" in held and not sanitizers):
            self.force = True
        super().build_extensions()

    def copy_extensions_to_source(self):
        self.force = True  # what is there may be newer, and of another decision
        super().copy_extensions_to_source()

    def add_cuda(self, extension, command, runtime):
        extension.sources += sorted(map(str, CSRC.glob("cuda/*.cu")))
        extension.library_dirs.append(str(runtime))
        extension.libraries += ["cudart_static", "dl", "rt", "pthread"]
        self.compiler.src_extensions.append(".cu")
        compile_cpp = self.compiler._compile

        def compile_one(obj, src, ext, cc_args, extra_postargs, pp_opts):
            if ext == ".cu":
                subprocess.check_call([*command, "-c", src, "-o", obj])
            else:
                compile_cpp(obj, src, ext, cc_args, extra_postargs, pp_opts)

        self.compiler._compile = compile_one


version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
extension = Pybind11Extension(
    "curbench.kernels._C",
    sources=sorted(map(str, [*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")])),
    depends=["setup.py", *sorted(str(path) for path in CSRC.rglob("*") if path.is_file())],
    define_macros=[("CURBENCH_VERSION", f'"{version}"')],
    cxx_std=17,
    extra_compile_args=[*STRICT, "-Wall", "-Werror", "-fopenmp"],
    extra_link_args=["-fopenmp", "-Wl,--exclude-libs,ALL", "-Wl,-s"],
)
ParallelCompile("CURBENCH_BUILD_JOBS", default=os.cpu_count() or 1).install()
setup(ext_modules=[extension], cmdclass={"build_ext": Build})
