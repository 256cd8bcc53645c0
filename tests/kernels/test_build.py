"""The extension links nothing heavy, loads fast, and its absence is reported with the remedy."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from curbench import kernels
from curbench.kernels.extension import load

ROOT = pathlib.Path(__file__).parents[2]


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd is not installed")
def test_the_extension_links_neither_torch_nor_cuda():
    linked = subprocess.run(["ldd", load().__file__], capture_output=True, text=True, check=True).stdout
    for library in ("libtorch", "libc10", "libcuda.so", "libcudart", "not found"):
        assert library not in linked


def test_importing_the_kernels_imports_neither_torch_nor_numba():
    code = "import sys, curbench.kernels as k; k.build_info(); print({'torch', 'numba', 'scipy'} & set(sys.modules))"
    assert run_python("-c", code).stdout.strip() == "set()"


def test_calling_an_op_on_numpy_arrays_does_not_import_torch():
    code = "import sys, curbench.kernels as k; k.group_advantage([0.0, 1.0], 2); print('torch' in sys.modules)"
    assert run_python("-c", code).stdout.strip() == "False"


def test_without_the_extension_import_works_and_calls_say_how_to_build_it():
    code = """if True:
        import sys
        sys.modules["curbench.kernels._C"] = None
        from curbench import kernels
        print(kernels.build_info()["kernels"])
        print(kernels.group_advantage([0.0, 1.0], 2, backend="reference").mean)
        kernels.group_advantage([0.0, 1.0], 2)
    """
    run = run_python("-c", code)
    assert run.stdout.splitlines()[1] == "[0.5]"
    for text in (run.stdout, run.stderr):
        assert "not compiled: run `pip install -e .`" in text
    assert "RuntimeError" in run.stderr


def test_build_info_says_what_was_built_and_what_is_here():
    info = kernels.build_info()
    count, reason = kernels.cuda_status()
    assert info["build"].startswith(("built with CUDA for ", "built without CUDA: "))
    assert info["cuda"] == (f"{count} device(s)" if count else f"not available ({reason})")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CURBENCH_CUDA": "yes"}, "CURBENCH_CUDA must be auto, 0 or 1; got 'yes'"),
        ({"CURBENCH_CUDA_ARCHS": "sm_90"}, "CURBENCH_CUDA_ARCHS must be a list such as \"80;90;100+PTX\"; got 'sm_90'"),
        ({"NVCC": "/nowhere/nvcc"}, "NVCC must name an executable; got '/nowhere/nvcc'"),
    ],
)
def test_a_wrong_build_setting_is_one_sentence(environment, message, tmp_path):
    pytest.importorskip("pybind11")
    build = ["setup.py", "-q", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    run = run_python(*build, **{"CURBENCH_CUDA": "auto"} | environment)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == message
