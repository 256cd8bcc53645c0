"""Builds ``curbench.kernels._C``: C++ always, CUDA when nvcc is found. Everything else is in pyproject.toml.

CURBENCH_CUDA        auto (default): CUDA if nvcc is found; 1: fail without it; 0: C++ only
CURBENCH_CUDA_ARCHS  compute capabilities, default "80;90;100+PTX"; "+PTX" adds code that later GPUs can compile
NVCC                 the compiler driver, default the nvcc on PATH, then /usr/local/cuda/bin/nvcc
CURBENCH_BUILD_JOBS  files compiled at once, default the number of cores

torch is not needed, and neither libtorch nor libcuda is linked: tensors cross by pointer, the CUDA runtime is static.
"""

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


def toolkit_root(nvcc):
    """The toolkit's folder as nvcc itself reports it, since nvcc may be a wrapper script that lives elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.cu")
        source.touch()
        run = subprocess.run([nvcc, "--dryrun", "-c", source], capture_output=True, text=True, cwd=folder)
    found = re.search(r"^#\$ TOP=(.+)$", run.stderr, re.MULTILINE)
    if run.returncode != 0 or not found:
        sys.exit(f"{nvcc} --dryrun did not report the toolkit's folder; set NVCC, or CURBENCH_CUDA=0 to do without")
    return Path(found[1].strip()).resolve()


def static_runtime(root):
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        if Path(root, folder, "libcudart_static.a").exists():
            return Path(root, folder)
    sys.exit(f"libcudart_static.a was not found under {root}; install the CUDA runtime, or set CURBENCH_CUDA=0")


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
        archs = setting(
            "CURBENCH_CUDA_ARCHS",
            "80;90;100+PTX",
            r"\d+a?(\+PTX)?(;\d+a?(\+PTX)?)*",
            'a list such as "80;90;100+PTX"',
        )
        nvcc = None if wanted == "0" else find_nvcc()
        if wanted == "1" and nvcc is None:
            sys.exit("CURBENCH_CUDA=1 needs nvcc, which is neither on PATH nor in NVCC; install the CUDA toolkit")
        [extension] = self.extensions
        if nvcc is None:
            note = "built without CUDA: " + ("CURBENCH_CUDA=0" if wanted == "0" else "nvcc not found")
            extension.sources.append(str(CSRC / "cuda" / "absent.cpp"))
        else:
            note = f"built with CUDA for {archs}, CURBENCH_CUDA={wanted}"
            self.add_cuda(extension, nvcc, archs)
        print(f"curbench.kernels: {note}")
        extension.define_macros.append(("CURBENCH_CUDA_NOTE", f'"{note}"'))
        last = Path(self.build_temp, "last_build")  # setuptools looks at the age of files only, not at this decision
        if not last.exists() or last.read_text() != note:
            self.force = True
        super().build_extensions()
        last.write_text(note)

    def add_cuda(self, extension, nvcc, archs):
        extension.sources += sorted(map(str, CSRC.glob("cuda/*.cu")))
        extension.library_dirs.append(str(static_runtime(toolkit_root(nvcc))))
        extension.libraries += ["cudart_static", "dl", "rt", "pthread"]
        self.compiler.src_extensions.append(".cu")
        compile_cpp = self.compiler._compile
        strict = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden,-ffp-contract=off"]
        command = [nvcc, *strict, "-lineinfo", "-Xfatbin", "-compress-all", "--threads", "0", *gencode(archs)]

        def compile_one(obj, src, ext, cc_args, extra_postargs, pp_opts):
            if ext == ".cu":
                subprocess.check_call([*command, "-c", src, "-o", obj])
            else:
                compile_cpp(obj, src, ext, cc_args, extra_postargs, pp_opts)

        self.compiler._compile = compile_one


version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
extension = Pybind11Extension(
    "curbench.kernels._C",
    sources=["csrc/bindings.cpp", *sorted(map(str, CSRC.glob("cpu/*.cpp")))],
    depends=sorted(str(path) for path in CSRC.rglob("*") if path.is_file()),
    define_macros=[("CURBENCH_VERSION", f'"{version}"')],
    cxx_std=17,
    extra_compile_args=[*STRICT, "-Wall", "-Werror", "-fopenmp"],
    extra_link_args=["-fopenmp", "-Wl,--exclude-libs,ALL", "-Wl,-s"],
)
ParallelCompile("CURBENCH_BUILD_JOBS", default=os.cpu_count() or 1).install()
setup(ext_modules=[extension], cmdclass={"build_ext": Build})
