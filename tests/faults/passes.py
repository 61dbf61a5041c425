"""Passes over the functions of the package: each fails once, in a training.

`python -m tests.faults.passes --sample 40` prints a JSON object a line: first
what was called, then each fault that did harm, then a summary.
"""

import argparse
import collections
import gc
import itertools
import json
import re
import sys
import threading
import time
import warnings
import zlib

KINDS = (ZeroDivisionError, MemoryError, RecursionError)

# What a fault may reach: the function that somebody else calls. All that it
# calls stands behind the barrier that is in it.
ENTRIES = {
    "the barrier itself, without which nothing is caught": (
        r"errors\.(FaultBarrier|_Around|_Call)\..*",
        r"errors\.(warn|_warn|place_and_words|fault_words|check_barrier)",
        r"errors\.check_barrier\.<lambda>",
    ),
    "it puts back what was there, and calls nothing but methods of lists": (
        r"backend\.tensorflow\.internals\.patch\.Replacement\.__exit__",
        r"backend\.tensorflow\.internals\.patch\.Replacement\._put_back",
        r"backend\.tensorflow\.internals\.randomness\.Drawing\.__exit__",
        r"backend\.tensorflow\.hook\.running\.Running\.__exit__",
        r"backend\.tensorflow\.hook\.loop\.LoopHook\.leave",
    ),
    "Keras calls it as a callback": (r"callback\.GradHealthCallback\.on_\w+",),
    "Keras asks the logs of an epoch for their names": (r".*\.Logs\.keys",),
    "Python or TensorFlow calls it in the midst of the user's code": (
        r".*\.observer\.(Live)?Observer\._see(\.at_return|_compiled)?",
        r".*\.recorder\.LiveRecorder\._see",
        r".*\.internals\.functions\._CallHooks\._run",
        r".*\.internals\.variables\.made_outside\.make",
        r".*\.internals\.functions\.Functions\._see",
    ),
    "the step of the model calls it in place of its own function": (
        r"backend\.tensorflow\.hook\.fit\.FitHook\._run",
        r".*\.GuardedStep\._guard\.train_step",
        r".*\.OptimizerHook\._hooked_apply\.apply",
        r".*\.scale_patch\.scale_loss",
        r".*\.SummedHook\._hooked_reduce\.reduce",
        r".*\.SummedHook\._hooked_update\.update",
        r".*\.FirstTrace\._hooked\.build",
    ),
    "Keras calls it as the loss; what it returns is the loss": (
        r"loss\.GradGuardLoss\.(__call__|call|_resolved)",
        r"loss\.not_converted",
    ),
    "Python calls it once a `fit` is gone": (
        r"backend\.tensorflow\.hook\.running\._end",
    ),
    "the user calls it": (
        r"loop\.Watch\.(__enter__|__exit__|step)",
        r"model_check\.diagnose",
        r"loss_check\.check_loss",
        r"backend\.(require_supported|unsupported)",
        r"__main__\.main",
        r"__getattr__",
    ),
    "it says what is wrong with an argument of the user's": (
        r"model_check\.(_batch|_build|_tensors.*)",
        r"loss_check\.(_tensors.*|_expected)",
        r"model\.losses\.(inner_loss|resolved_loss)",
        r".*\.internals\.batches\.(is_dataset|first_batch|is_composite)",
    ),
    "the sentence that tells of a fault goes through it": (
        r"records\.text\.printable",
    ),
    "TensorBoard calls it, and logs what it raises": (
        r"view\.loader\..*",
        r"view\.plugin\.GradGuardPlugin\.(__init__|get_plugin_apps)",
        r"view\.plugin\.GradGuardPlugin\.(is_active|frontend_metadata)",
        r"view\.plugin\.(asset_names|_answered(\.application)?)",
        r"view\.plugin\._(serve_asset|sentence|fault)",
    ),
}
_ENTRIES = re.compile("|".join(itertools.chain(*ENTRIES.values())))


def main():
    """Runs the pass that the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int, default=1)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--trainings", default="")
    parser.add_argument("--examples", action="store_true")
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--interrupt", action="store_true")
    arguments = parser.parse_args()
    from tests.faults import injection

    injector = injection.install()
    import tensorflow as tf

    (device,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(device, [half, half])
    from tests.faults.trainings import TRAININGS, examples, stored

    stored()

    wanted = (
        arguments.trainings.split(",") if arguments.trainings else TRAININGS
    )
    trainings = {name: TRAININGS[name] for name in wanted}
    if arguments.examples:
        trainings |= examples()
    begun = time.time()
    known = {name: Known(t, injector) for name, t in trainings.items()}
    say(
        seconds=round(time.time() - begun, 1),
        times={n: round(k.seconds, 2) for n, k in known.items()},
        wrong={n: k.wrong for n, k in known.items() if k.wrong},
        called=sorted(set().union(*(k.calls for k in known.values()))),
    )
    begun, number = time.time(), 0
    everything = cases(known, arguments.each)
    if arguments.interrupt:
        everything = interrupts(known)
    for name, training, call, kind, is_lasting in everything:
        if not re.search(arguments.only, name):
            continue
        case = f"{name} {training}"
        if zlib.crc32(case.encode()) % arguments.sample != arguments.part:
            continue
        injector.arm(name, call, kind, is_lasting)
        if arguments.interrupt:
            harm = known[training].harm_of_interrupt(injector)
        else:
            harm = known[training].harm(injector)
        # What is asked once in a process, or what a search for patches leaves
        # out for lack of time, is not called again.
        number += injector.num_raised > 0
        if harm:
            say(
                function=name,
                training=training,
                call=call,
                of=known[training].calls[name],
                kind=kind.__name__,
                lasting=is_lasting,
                harm=harm,
            )
    say(cases=number, seconds=round(time.time() - begun, 1))


def say(**known):
    """Prints an object."""
    print(json.dumps(known), flush=True)


def cases(known, is_each):
    """Yields which function fails where: first, last and a middle call.

    Without `is_each` a function fails in the two trainings that take least.
    """
    names = sorted(set().union(*(k.calls for k in known.values())))
    for name in names:
        if _ENTRIES.fullmatch(name):
            continue
        found = sorted(
            (t for t in known if known[t].calls[name]),
            key=lambda t: known[t].seconds,
        )
        if not is_each:
            found = found[:1] + found[len(found) // 2 :][:1]
            found = list(dict.fromkeys(found))
        kinds = itertools.cycle(KINDS)
        for _ in range(zlib.crc32(name.encode()) % len(KINDS)):
            next(kinds)
        for number, training in enumerate(found):
            count = known[training].calls[name]
            which = {1, count} if number % 2 else {1, (count + 1) // 2}
            for call in sorted(which):
                is_lasting = bool((number + call) % 2)
                yield name, training, call, next(kinds), is_lasting


def interrupts(known):
    """Yields where Ctrl-C comes: in each function, at one of its calls."""
    for name, training, call, _, is_lasting in cases(known, False):
        if not is_lasting and hasattr(known[training].training, "again"):
            yield name, training, call, KeyboardInterrupt, False


class Known:
    """What a training does without a fault.

    Attributes:
        calls: How often each function is called.
        seconds: How long it takes.
        wrong: What is not as it should be.
    """

    def __init__(self, training, injector):
        self.training = training
        self.bare = run(training, injector, False)[0]
        injector.arm(None, 0, None, False)
        begun = time.time()
        self.guarded, told = run(training, injector, True)
        self.seconds = time.time() - begun
        self.calls = collections.Counter(injector.calls)
        self.wrong = list(self._differences(self.guarded))
        self.wrong += [str(w) for w in told]

    def harm(self, injector):
        """Trains with a fault; returns what it did that it may not."""
        try:
            found, told = run(self.training, injector, True)
        except Exception as error:
            return [f"what is asked afterwards raises {error!r}"[:600]]
        harm = list(self._differences(found))
        raised = injector.num_raised
        if raised and len(told) != 1:
            harm.append(f"told {len(told)} times: {told}"[:600])
        elif raised and found.report is not None:
            is_patch = "no more checked patches" in told[0]
            if not is_patch and "GG900" not in (found.report.not_checked or ""):
                harm.append("the report does not tell")
        return harm

    def harm_of_interrupt(self, injector):
        """Trains until Ctrl-C; returns what is not as it should be."""
        found, told = run(self.training, injector, True)
        if not injector.num_raised:
            # A search for patches may end earlier than it did.
            return []
        # Python prints what is raised as an object is let go, and goes on.
        lost = f"unraisable {KeyboardInterrupt('injected')!r}"
        harm = [t for t in told if t != lost]
        is_ended = error_of(found.error) == "KeyboardInterrupt"
        if not is_ended and lost not in told:
            harm.append(f"ended by {found.error!r}")
        harm += self._left_behind()
        # One may be taken in and not written yet.
        if self.training.lost > 1:
            harm.append(f"{self.training.lost} records are not on disk")
        try:
            self.training.again()
        except Exception as error:
            if error_of(error) != error_of(self.bare.error):
                harm.append(f"cannot train again: {error!r}"[:600])
        return harm

    def _differences(self, found):
        import numpy as np

        allowed = {error_of(self.bare.error)}
        if hasattr(self, "guarded"):
            allowed.add(error_of(self.guarded.error))
        elif self.training.may_differ:
            allowed.add(error_of(found.error))
        if error_of(found.error) not in allowed:
            yield f"ended by {found.error!r}, not {allowed}"[:600]
        elif not self.training.may_differ and found.error is None:
            same = len(self.bare.values) == len(found.values) and all(
                map(
                    np.array_equal,
                    self.bare.values,
                    found.values,
                    itertools.repeat(True),
                )
            )
            if not same:
                yield "other weights"
            if self.training.is_training and self.bare.drawn != found.drawn:
                yield "other random numbers"
        yield from self._left_behind()

    def _left_behind(self):
        from tensorflow.python import pywrap_tfe
        from tensorflow.python.eager import context
        from tensorflow.python.framework import op_callbacks

        from keras_gradguard.backend.tensorflow.hook import running
        from keras_gradguard.backend.tensorflow.internals import randomness
        from keras_gradguard.backend.tensorflow.tracing import restore

        if running.running_hook() is not None:
            yield "a hook runs"
        stack = getattr(running._thread, "stack", [])
        gc.collect()
        if any(hook() is not None for hook in stack):
            yield "a hook is left on the stack"
        stack.clear()
        if not pywrap_tfe.TFE_Py_TapeSetIsEmpty():
            yield "a tape records, from now on"
        if context.context().op_callbacks:
            yield "ops are seen"
            op_callbacks.clear_op_callbacks()
        if restore.is_examining():
            yield "still examining"
            restore._thread.examining = False
        if randomness._is_elsewhere():
            yield "drawing elsewhere"
            randomness._thread.is_elsewhere = False
        if sys.gettrace() or sys.getprofile() or threading.gettrace():
            yield "Python's own hooks are set"
            sys.settrace(None)
            sys.setprofile(None)
            threading.settrace(None)
        if self.training.left:
            yield f"attributes are left: {self.training.left}"


def error_of(error):
    """What an exception is known by."""
    return None if error is None else type(error).__name__


def run(training, injector, is_guarded):
    """Trains; returns the `Outcome` and each GG900 that was told."""
    import keras

    unraisable = []
    before, sys.unraisablehook = sys.unraisablehook, unraisable.append
    if training.is_training:
        # What earlier ones have left is looked at once.
        gc.collect()
        gc.freeze()
        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = training.run(injector, is_guarded)
    finally:
        sys.unraisablehook = before
    texts = [str(w.message) for w in said]
    texts += [getattr(training, "said", "")]
    told = [t for t in texts if "GG900" in t]
    told += [f"unraisable {u.exc_value!r}" for u in unraisable]
    return found, told


if __name__ == "__main__":
    main()
