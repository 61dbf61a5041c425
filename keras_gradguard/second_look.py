"""Step 4: a second look at the first batch: cuts that show no None."""

from keras_gradguard.diagnosis import examine


def second_look(step_of, measured, logbook, expected):
    """Looks for cuts behind zeros, and behind variables that are left out.

    Loops, branches and Python functions give zeros where they are cut; a
    step of the user's own may drop the variables without a gradient.

    Args:
        step_of: Makes the `Step` of some variables.
        measured: What `Probe.read` returns.
        logbook: The `Logbook`.
        expected: The `Expected` variables without a gradient.

    Returns:
        A list of `(findings, severity)`.
    """
    found = []
    for variables, figures, *_ in measured:
        zeros = [n for n, row in enumerate(figures) if row[1] == 0]
        if zeros:
            step = step_of(variables)
            found_zero = step.answer(examine.explain_zero, tuple(zeros))
            findings = expected.strip(found_zero)
            is_all = len(zeros) == len(step.variables)
            found.append((findings, "error" if is_all else "warning"))
    applied = {id(v) for variables, *_ in measured for v in variables}
    known = step_of(()).model.trainable_variables
    dropped = [v for v in known if id(v) not in applied]
    if applied and dropped:
        step = step_of(dropped)
        findings = expected.strip(step.answer(examine.explain_dropped))
        for variable, path in zip(dropped, step.paths, strict=True):
            if any(path in finding.variables for finding in findings):
                logbook.lose(variable, path)
        found.append((findings, "warning"))
    return found
