"""From an op or an exception to the user's source line."""

import collections
import contextlib
import functools
import os
import sys
import sysconfig
import traceback
import types

from keras_gradguard.model.layers import trainer_file
from keras_gradguard.records.finding import Place
from keras_gradguard.source.lines import is_changed, lines_of
from keras_gradguard.source.syntax import returns_of


def translated_frames(error):
    """Returns AutoGraph's view of a failure's frames, the innermost first.

    Args:
        error: An exception that may have passed through converted code.

    Returns:
        A list of `(file, line, function)`; empty without AutoGraph.
    """
    metadata = getattr(error, "ag_error_metadata", None)
    stack = getattr(metadata, "translated_stack", ())
    return [(f.filename, f.lineno, f.function_name) for f in stack]


PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FRAMEWORKS = (
    "keras",
    "tensorflow",
    "keras_gradguard",
    "tf_keras",
    "tensorflow_probability",
    "keras_hub",
    "keras_nlp",
    "keras_cv",
)
_CONTEXT_LINES = 1


def frames_of_error(error):
    """Returns the `(file, line, function)`s of an exception, outermost first.

    Frames of AutoGraph's generated code are replaced by the user's.
    """
    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    translated = translated_frames(error)
    return frames + [frame for frame in reversed(translated)]


_PASSED = set()


def pass_over(function):
    """Lets a function of this package pass for the code that it stands in.

    Args:
        function: A function that the user's code calls in a step, as it is
            put in the place of one of the framework's.
    """
    _PASSED.add(function.__name__)


def inside_step(frames):
    """Drops the frames that lead to the training step.

    These end with this package's own, or else with Keras' training loop.
    """
    files = [file for file, _, _ in frames]
    own = [
        number
        for number, (file, _, function) in enumerate(frames)
        if _is_below(file, PACKAGE) and function not in _PASSED
    ]
    trainer = trainer_file()
    keras_own = [n for n, file in enumerate(files) if file == trainer]
    last = own or keras_own or [-1]
    return frames[last[-1] + 1 :]


def user_place(frames):
    """Returns the innermost user line of some frames as a `Place`.

    Args:
        frames: `(file, line, function)`s, the outermost first.

    Returns:
        The `Place`, empty where no frame is the user's.
    """
    found = [f for f in inside_step(frames) if is_users(f[0])]
    return place_at(*found[-1]) if found else Place()


def library_calls(frames):
    """Returns the names of the functions that the user's line called."""
    names = []
    for file, _, function in inside_step(frames):
        if is_users(file):
            names = []
        elif function not in names:
            names.append(function)
    return tuple(names)


def gradient_function(frames):
    """Returns the type of the op in whose gradient function an op was made.

    TensorFlow registers these functions in `tensorflow/python/ops/*_grad.py`,
    each under the name of its op, e.g. `_ReluGradGrad` for `ReluGrad`.

    Args:
        frames: `(file, line, function)`s, the outermost first.

    Returns:
        e.g. `"ReluGrad"`, `None` outside of such a function.
    """
    for file, _, function in reversed(frames):
        if file.endswith("_grad.py") and not is_users(file):
            return function.strip("_").removesuffix("Grad") or None
    return None


def place_of_gradient(function):
    """Returns where a custom gradient of the user's returns `None`.

    Args:
        function: What the framework calls for the gradient; it holds the
            user's function in a closure. `None` for none.

    Returns:
        The `Place`, empty where no function in it is the user's.
    """
    queue, seen = collections.deque([function]), set()
    while queue:
        one = queue.popleft()
        one = getattr(one, "__func__", one)
        if type(one) is not types.FunctionType or one in seen:
            continue
        seen.add(one)
        code = one.__code__
        if is_users(code.co_filename):
            lines = returns_of(code)
            line = lines[-1] if lines else code.co_firstlineno
            return place_at(code.co_filename, line, code.co_name)
        for cell in one.__closure__ or ():
            with contextlib.suppress(ValueError):
                queue.append(cell.cell_contents)
    return Place()


def place_at(file, line, function):
    """Returns a `Place` with the source lines around it."""
    lines = lines_of(file, function, line)
    start = max(1, line - _CONTEXT_LINES)
    snippet = tuple(
        text.rstrip("\n") for text in lines[start - 1 : line + _CONTEXT_LINES]
    )
    if line > len(lines):
        snippet, start = (), None
    return Place(
        file,
        line,
        function or "<lambda>",
        snippet,
        start,
        is_changed=not lines and is_changed(file, function, line),
    )


def op_place(op):
    """Returns the user's line that made `op`, an empty `Place` if none."""
    return user_place(op.frames)


def is_own_fault(error):
    """Returns whether an exception was raised by code of this package.

    What a framework or the user's code raises when called from here is not.

    Args:
        error: The exception, as it was caught.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        file = frame.f_code.co_filename
        if _is_below(file, PACKAGE):
            return True
        if not _is_of_python(file):
            return False
    return False


def _is_of_python(file):
    """Whether a file is of the standard library."""
    if file.startswith("<"):
        return file.startswith("<frozen")
    is_below = _is_below(file, _folder_of("stdlib"))
    return is_below and installed_package(file) is None


@functools.lru_cache(maxsize=4096)
def is_users(file):
    """Returns whether a source file is the user's own.

    A file is the user's unless it lies in the folder of a framework, of the
    standard library, or of an installed package that is not written against
    TensorFlow or Keras (such as NumPy or scikit-learn).

    Args:
        file: File name as a code object has it.
    """
    if file.startswith("<"):
        return not file.startswith(("<frozen", "<__array_function__"))
    if "__autograph_generated_file" in os.path.basename(file):
        return False
    if any(_is_below(file, folder) for folder in _framework_folders()):
        return False
    package = installed_package(file)
    if package is not None:
        return _uses_tensorflow(package)
    return not _is_of_python(file)


@functools.cache
def _framework_folders():
    folders = [PACKAGE]
    for name in FRAMEWORKS:
        module = sys.modules.get(name)
        folders += [os.path.abspath(p) for p in getattr(module, "__path__", ())]
        file = getattr(module, "__file__", None)
        if file:
            folders.append(os.path.dirname(os.path.abspath(file)))
    return tuple(folders)


def installed_package(file):
    """Returns the installed package that a file belongs to, or `None`."""
    for key in ("purelib", "platlib"):
        folder = _folder_of(key)
        if _is_below(file, folder):
            inside = _absolute(file)[len(folder) :].lstrip(os.sep)
            return inside.split(os.sep)[0].removesuffix(".py")
    return None


@functools.cache
def _folder_of(key):
    """A folder of Python's; each answer of `sysconfig` takes 0.1 ms or more."""
    return sysconfig.get_path(key)


def _uses_tensorflow(package):
    if package in FRAMEWORKS:
        return False
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != package:
            continue
        for value in list(getattr(module, "__dict__", {}).values()):
            if isinstance(value, types.ModuleType):
                origin = value.__name__
            else:
                origin = getattr(value, "__module__", None) or ""
            if str(origin).split(".")[0] in ("keras", "tensorflow"):
                return True
    return False


def _is_below(file, folder):
    """A step has as many frames as ops, and a few files."""
    return _absolute(file).startswith(folder + os.sep)


def _absolute(file):
    """The normal form of a file name, which may mean another one elsewhere."""
    return _normal(file) if os.path.isabs(file) else os.path.abspath(file)


_normal = functools.lru_cache(maxsize=4096)(os.path.normpath)
