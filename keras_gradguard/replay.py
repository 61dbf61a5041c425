"""Replays an incident: the model, its weights and one batch."""

import contextlib
import dataclasses
import importlib.util
import os
import sys

import keras

from keras_gradguard.advice.patches import Patches
from keras_gradguard.backend import step_evidence
from keras_gradguard.backend.tensorflow.internals.batches import (
    loaded,
    unpacked,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.tracing.restore import state_restored
from keras_gradguard.diagnosis.questions import explain_nonfinite
from keras_gradguard.diagnosis.wording import diagnoses_of
from keras_gradguard.errors import place_and_words
from keras_gradguard.graph.trace import Step
from keras_gradguard.model.layers import state_of
from keras_gradguard.records.kinds import severity_of
from keras_gradguard.records.report import Report
from keras_gradguard.report import incident as stored
from keras_gradguard.report.incident import broken_records, replay_note

# Its shape.
_SEED = (2,)


def replay_incident(folder, model):
    """Replays the bad step of an incident.

    Args:
        folder: The folder of the incident.
        model: `"FILE.py:FUNCTION"`; the function takes no arguments and
            returns the compiled model, built as for the training.

    Returns:
        A `Report` with the diagnoses of that step.

    Raises:
        ValueError: If the folder holds no incident, the model does not match
            it, or the step cannot be run with it.
    """
    incident = read_incident(folder)
    if incident.batch is None or not incident.weights:
        raise ValueError(
            f"{folder!r} cannot be replayed because its batch or weights were "
            f"not saved: {'; '.join(incident.notes) or 'no reason given'}"
        )
    made = _model(model)
    if not made.built:
        _build(made, incident.batch)
    variables = _matched(made, incident)
    trained = tuple(made.trainable_variables)
    if len(trained) != len(incident.paths):
        raise ValueError(
            f"`{model}` has {len(trained)} trainable variables, but the model "
            f"of the incident had {len(incident.paths)}: freeze the same layers"
        )
    evidence = step_evidence(made, incident.batch)
    step = Step(made, incident.batch, trained, incident.paths, evidence)
    weights = tuple(zip(variables, incident.weights, strict=False))
    recorded = evidence.recorded(weights)
    if recorded.error is not None:
        raise ValueError(
            f"the step of {folder!r} cannot be run with `{model}`: "
            f"{place_and_words(recorded.error)}"
        )
    found = explain_nonfinite(
        step, incident.hit, weights, incident.mode == "xla", recorded
    )
    notes = (*incident.notes, replay_note(folder))
    found = [dataclasses.replace(f, notes=(*f.notes, *notes)) for f in found]
    diagnoses = diagnoses_of(
        found,
        len(trained),
        severity_of(len(incident.hit), len(incident.paths)),
        step=incident.step,
        epoch=incident.epoch,
        patches=Patches.of_step(step, random_state_kept, weights),
    )
    return Report(diagnoses=diagnoses, step=incident.step)


def read_incident(folder):
    """Reads an incident with its batch and weights.

    Args:
        folder: The folder of the incident.

    Returns:
        An `Incident`; its `batch` holds tensors, as `train_step` got them,
        and its `weights` are arrays.

    Raises:
        ValueError: If the folder holds no incident, or one that is damaged or
            written by a newer version.
    """
    kept = stored.read_incident(folder)
    with broken_records(folder):
        batch, arrays = kept.batch, kept.arrays
        if batch is not None:
            batch = unpacked(batch, arrays)
        weights = tuple(loaded(item, arrays) for item in kept.weights)
    return dataclasses.replace(kept, batch=batch, weights=weights)


def _build(model, batch):
    x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    with state_restored(model):
        model(x)


def _model(target):
    """Loads the file and calls the function."""
    file, _, function = target.rpartition(":")
    if not file or not function:
        raise ValueError(
            "`--model` must be FILE.py:FUNCTION, where the function returns "
            f"the compiled model. Received: {target!r}"
        )
    if not os.path.isfile(file):
        raise ValueError(f"`--model`: there is no file {file!r}")
    name = os.path.splitext(os.path.basename(file))[0]
    folder = os.path.dirname(os.path.abspath(file))
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        with _users_code(target):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    made = getattr(module, function, None)
    if not callable(made):
        known = [n for n, v in vars(module).items() if callable(v)]
        raise ValueError(
            f"{file!r} has no function {function!r}. It defines: "
            f"{', '.join(known) or 'none'}"
        )
    with _users_code(target):
        model = made()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            f"`{function}` must return a compiled Keras model. It returned: "
            f"{model!r}"
        )
    return model


@contextlib.contextmanager
def _users_code(target):
    """Says of the user's code that it fails, in one sentence.

    Args:
        target: What was given for `--model`.

    Raises:
        ValueError: If the block fails.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"`--model {target}` failed: {place_and_words(error)}"
        ) from error


def _matched(model, incident):
    """The variables of the model, in the order of the incident's weights."""
    variables, known = state_of(model), list(incident.names)
    shapes = [tuple(variable.shape) for variable in variables]
    expected = [shape for _, shape in known]
    # A random seed of Keras itself may come after those of the model.
    number = min(len(shapes), len(expected))
    if [_SEED] in (shapes[number:], expected[number:]):
        variables, known = variables[:number], known[:number]
        shapes, expected = shapes[:number], expected[:number]
    if shapes != expected:
        pairs = zip(shapes, expected, strict=False)
        number = next(
            (n for n, (a, b) in enumerate(pairs) if a != b),
            min(len(shapes), len(expected)),
        )
        was = known[number] if number < len(known) else "nothing more"
        now = shapes[number] if number < len(shapes) else "nothing more"
        raise ValueError(
            f"the model does not match the incident: variable {number} was "
            f"{was}, but its shape in this model is {now}"
        )
    return variables
